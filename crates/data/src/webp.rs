//! Decodes WebP files to the pixels of Pillow's `convert("RGB")`.

use std::io::Cursor;

use image_webp::WebPDecoder;

use super::limits::refusal;
use super::pixels::Pixels;
use super::webp_header::contradiction;

/// Returns whether the bytes begin like a WebP file.
pub(crate) fn is_webp(bytes: &[u8]) -> bool {
    matches!(bytes, [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..])
}

/// Returns the width and the height of a WebP file.
///
/// # Errors
/// If its header is damaged. The error is the reason.
pub(crate) fn webp_size(bytes: &[u8]) -> Result<(usize, usize), String> {
    let (width, height) = open(bytes)?.dimensions();
    Ok((width as usize, height as usize))
}

/// Decodes a WebP file, or the first frame of an animated one. Transparency is discarded.
///
/// # Errors
/// If it is damaged, or the size is refused. The error is the reason.
pub(crate) fn decode_webp(bytes: &[u8]) -> Result<Pixels, String> {
    if let Some(reason) = contradiction(bytes) {
        return Err(reason);
    }
    let mut decoder = open(bytes)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    if let Some(reason) = refusal(width, height) {
        return Err(reason);
    }
    let length = decoder.output_buffer_size().ok_or("it is too large")?;
    let mut values = vec![0; length];
    decoder.read_image(&mut values).map_err(|error| error.to_string())?;
    if decoder.has_alpha() {
        for pixel in 0..width * height {
            values.copy_within(4 * pixel..4 * pixel + 3, 3 * pixel);
        }
        values.truncate(3 * width * height);
    }
    Ok(Pixels { width, height, channels: 3, bytes: values })
}

fn open(bytes: &[u8]) -> Result<WebPDecoder<Cursor<&[u8]>>, String> {
    WebPDecoder::new(Cursor::new(bytes)).map_err(|error| error.to_string())
}
