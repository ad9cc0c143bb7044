//! Decodes image files to the same pixels as Pillow's `open(...).convert("RGB")`.

use admiral_containers::Fetched;

use super::buffers::Buffers;
use super::decoding::Decoding;
use super::gif::decode_gif;
use super::jpeg::decode_jpeg;
use super::limits::refusal;
use super::pixels::Pixels;
use super::png::{decode_png, is_png};
use super::pnm::{decode_pnm, is_pnm};
use super::webp::{decode_webp, is_webp};

/// Decodes a jpg, a png, a binary ppm or pgm, or the first frame of a gif or webp, exactly. The result has 1 channel if the
/// image is gray, otherwise 3. The format is detected from the content. Transparency is discarded. Damage to a png that leaves
/// its pixels and their Adler-32 whole is ignored.
///
/// # Errors
/// If the bytes are not a complete image of one of these formats. The error is the reason.
pub fn decode(bytes: &[u8]) -> Result<Pixels, String> {
    if is_jpeg(bytes) { decode_jpeg(bytes, |_| 1, &mut Buffers::default()) } else { decode_other(bytes) }
}

/// Decodes an image as [`decode`] does, to resize its short side to `length` pixels next. With [`Decoding::Fast`], the
/// result may be smaller than the stored image. Its short side keeps at least `length` pixels, if it had them. Takes its
/// memory from `buffers`.
///
/// # Errors
/// As those of [`decode`].
pub fn decode_for(bytes: &[u8], length: usize, decoding: Decoding, buffers: &mut Buffers) -> Result<Pixels, String> {
    if is_jpeg(bytes) {
        decode_jpeg(bytes, |short_side| decoding.reduction(short_side, length), buffers)
    } else {
        decode_other(bytes)
    }
}

/// Returns the pixels of an image as a source has read it. A file is decoded by [`decode_for`].
///
/// # Errors
/// As those of [`decode`].
pub fn into_pixels(
    fetched: Fetched,
    length: usize,
    decoding: Decoding,
    buffers: &mut Buffers,
) -> Result<Pixels, String> {
    match fetched {
        Fetched::File(bytes) => decode_for(&bytes, length, decoding, buffers),
        Fetched::Pixels { height, width, channels, bytes } => match refusal(width, height) {
            Some(reason) => Err(reason),
            None => Ok(Pixels { height, width, channels, bytes }),
        },
    }
}

fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xFF, 0xD8])
}

fn decode_other(bytes: &[u8]) -> Result<Pixels, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    if is_pnm(bytes) {
        return decode_pnm(bytes);
    }
    if bytes.starts_with(b"GIF8") {
        return decode_gif(bytes);
    }
    if is_png(bytes) {
        return decode_png(bytes);
    }
    if is_webp(bytes) {
        return decode_webp(bytes);
    }
    Err("it is neither jpg, png, gif, webp, ppm nor pgm".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn files_that_are_no_images_are_errors() {
        assert_eq!(decode(b""), Err("the file is empty".into()));
        assert_eq!(decode(b"hello, I am text"), Err("it is neither jpg, png, gif, webp, ppm nor pgm".into()));
        assert!(decode(&[0xFF, 0xD8, 0xFF, 0xE0, 0, 16]).is_err());
    }

    #[test]
    fn ready_made_pixels_have_the_bound_of_files() {
        let bytes = vec![0; super::super::limits::MAX_PIXELS + 1];
        let of_size = |height, bytes| {
            let fetched = Fetched::Pixels { height, width: 1, channels: 1, bytes };
            into_pixels(fetched, 64, Decoding::Exact, &mut Buffers::default())
        };
        assert!(of_size(bytes.len(), bytes).unwrap_err().contains("at most 178956970"));
        assert!(of_size(0, Vec::new()).unwrap_err().contains("1 x 0 pixels"));
        assert!(of_size(2, vec![1, 2]).is_ok());
    }

    #[test]
    fn truncated_images_are_errors() {
        for name in ["rocket.jpg", "text.png"] {
            let bytes = std::fs::read(format!("{}/../../tests/images/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            assert!(decode(&bytes).is_ok(), "{name}");
            for length in [100, bytes.len() / 2, bytes.len() - 1000] {
                assert!(decode(&bytes[..length]).is_err(), "{name} cut at {length}");
            }
        }
    }
}
