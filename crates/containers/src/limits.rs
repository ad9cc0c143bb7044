//! Bounds on the bytes of one image.

/// The largest number of pixels of an image: that at which Pillow refuses an image as a decompression bomb.
pub const MAX_PIXELS: u64 = 178_956_970;

/// The largest image that is read or unpacked, in bytes: that many pixels of 3 bytes, with the header of a PPM file.
pub const MAX_IMAGE_BYTES: u64 = 3 * MAX_PIXELS + 1024;

/// Returns why an image of this many bytes is refused; `None` if it is not.
pub(crate) fn refusal_of_bytes(length: u64) -> Option<String> {
    (length > MAX_IMAGE_BYTES).then(|| format!("it has {length} bytes, and at most {MAX_IMAGE_BYTES} are read"))
}
