//! The format and the size of an image file, from its first bytes.

use super::gif::gif_size;
use super::jpeg::jpeg_size;
use super::png::{is_png, png_size};
use super::pnm::{is_pnm, read_header as read_pnm_header};
use super::webp::{is_webp, webp_size};

/// The format of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// GIF.
    Gif,
    /// WebP.
    WebP,
    /// Binary PPM: colour without compression.
    Ppm,
    /// Binary PGM: grey without compression.
    Pgm,
}

impl Format {
    /// Returns the format of a file; `None` if it is none of those that are read.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xFF, 0xD8, ..] => Some(Self::Jpeg),
            _ if is_png(bytes) => Some(Self::Png),
            [b'G', b'I', b'F', b'8', ..] => Some(Self::Gif),
            _ if is_webp(bytes) => Some(Self::WebP),
            [_, b'5', ..] if is_pnm(bytes) => Some(Self::Pgm),
            _ if is_pnm(bytes) => Some(Self::Ppm),
            _ => None,
        }
    }

    /// Returns the ending of the names of files of this format, without the dot.
    #[must_use]
    pub fn ending(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Gif => "gif",
            Self::WebP => "webp",
            Self::Ppm => "ppm",
            Self::Pgm => "pgm",
        }
    }
}

/// Returns the format, the width and the height of an image file. Only the header is read, so that the image may still be
/// damaged.
///
/// # Errors
/// If the file has another format, or its header is damaged. The error is the reason.
pub fn read_header(bytes: &[u8]) -> Result<(Format, usize, usize), String> {
    let format = Format::of(bytes).ok_or("it is neither jpg, png, gif, webp, ppm nor pgm")?;
    let (width, height) = match format {
        Format::Jpeg => jpeg_size(bytes)?,
        Format::Ppm | Format::Pgm => read_pnm_header(bytes).map(|header| (header.width, header.height))?,
        Format::Gif => gif_size(bytes)?,
        Format::Png => png_size(bytes)?,
        Format::WebP => webp_size(bytes)?,
    };
    Ok((format, width, height))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::decode;

    #[test]
    fn a_header_has_the_size_of_the_decoded_image() {
        let names =
            [("rocket.jpg", Format::Jpeg), ("text.png", Format::Png), ("no_time_for_that_tiny.gif", Format::Gif)];
        for (name, format) in names {
            let bytes = std::fs::read(format!("{}/../../tests/images/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let image = decode(&bytes).unwrap();
            assert_eq!(read_header(&bytes), Ok((format, image.width, image.height)), "{name}");
            assert!(read_header(&bytes[..12]).is_err(), "{name}");
        }
        assert_eq!(read_header(b"P6 3 2 255 "), Ok((Format::Ppm, 3, 2)));
        assert_eq!(read_header(b"P5 3 2 255 "), Ok((Format::Pgm, 3, 2)));
        assert!(read_header(b"text").unwrap_err().contains("neither"));
        assert!(read_header(b"").is_err());
    }
}
