//! From the bytes of a file to pixels, equal to what Pillow's `open(...).convert("RGB")` gives.

use std::any::Any;
use std::cell::Cell;
use std::io::{BufRead, Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{DynamicImage, ImageReader};
use mozjpeg::{ColorSpace, Decompress};

use super::pixels::Pixels;

/// Decodes a jpg, png or gif (its first frame) to colour, or to grey where the picture is grey. The format is told by
/// the content. Transparency is dropped, as it is for training.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<Pixels, String> {
    if bytes.starts_with(&[0xFF, 0xD8]) { decode_jpeg(bytes) } else { decode_other(bytes) }
}

fn decode_other(bytes: &[u8]) -> Result<Pixels, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    if reader.format().is_none() {
        return Err("it is neither jpg, png nor gif".into());
    }
    let picture = reader.decode().map_err(|error| error.to_string())?;
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let high = |values: &[u16]| values.iter().map(|value| (value >> 8) as u8).collect::<Vec<u8>>();
    let (channels, bytes) = match picture {
        DynamicImage::ImageLuma8(grey) => (1, grey.into_raw()),
        DynamicImage::ImageLumaA8(grey) => (1, grey.pixels().map(|pixel| pixel[0]).collect()),
        // 16 bits keep their high byte, as colour does in Pillow (whose conversion of grey saturates at 255 of 65535).
        DynamicImage::ImageLuma16(grey) => (1, high(grey.as_raw())),
        DynamicImage::ImageLumaA16(grey) => (1, grey.pixels().map(|pixel| (pixel[0] >> 8) as u8).collect()),
        DynamicImage::ImageRgb16(colour) => (3, high(colour.as_raw())),
        DynamicImage::ImageRgba16(colour) => {
            (3, colour.pixels().flat_map(|pixel| [pixel[0], pixel[1], pixel[2]].map(|v| (v >> 8) as u8)).collect())
        }
        other => (3, other.into_rgb8().into_raw()),
    };
    Ok(Pixels { width, height, channels, bytes })
}

fn decode_jpeg(bytes: &[u8]) -> Result<Pixels, String> {
    let ran_out = Cell::new(false);
    // libjpeg's errors come as unwinding.
    let decoded = catch_unwind(AssertUnwindSafe(|| decompress(bytes, &ran_out)));
    let pixels = decoded.map_err(|panic| panic_text(&*panic))?.map_err(|error| error.to_string())?;
    // libjpeg paints what is missing grey and only warns.
    if ran_out.get() { Err("the file ends too early".into()) } else { Ok(pixels) }
}

fn decompress(bytes: &[u8], ran_out: &Cell<bool>) -> std::io::Result<Pixels> {
    let decoder = Decompress::new_reader(Watched { rest: bytes, ran_out })?;
    let color_space = decoder.color_space();
    let wanted = match color_space {
        ColorSpace::JCS_GRAYSCALE => ColorSpace::JCS_GRAYSCALE,
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => ColorSpace::JCS_CMYK,
        _ => ColorSpace::JCS_RGB,
    };
    let mut started = decoder.to_colorspace(wanted)?;
    let (width, height) = (started.width(), started.height());
    let data: Vec<u8> = started.read_scanlines()?;
    // Reads on to the end of the picture, so that a file without one is noticed.
    started.finish()?;
    let (channels, bytes) = match wanted {
        ColorSpace::JCS_GRAYSCALE => (1, data),
        ColorSpace::JCS_CMYK => (3, inverted_cmyk_to_rgb(&data)),
        _ => (3, data),
    };
    Ok(Pixels { width, height, channels, bytes })
}

/// JPEG files hold ink inverted: Adobe's programs began it, and Pillow, too, takes it for granted.
fn inverted_cmyk_to_rgb(data: &[u8]) -> Vec<u8> {
    data.chunks_exact(4)
        .flat_map(|pixel| {
            let white = u32::from(pixel[3]);
            [0, 1, 2].map(|channel| {
                // ink * white / 255, rounded, in integers.
                let product = u32::from(255 - pixel[channel]) * white + 128;
                white.saturating_sub(((product >> 8) + product) >> 8) as u8
            })
        })
        .collect()
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the decoder failed").to_owned()
}

/// Bytes that remember whether more were asked for than there are.
struct Watched<'a> {
    rest: &'a [u8],
    ran_out: &'a Cell<bool>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Watched<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.ran_out.set(true);
        }
        Ok(self.rest)
    }

    fn consume(&mut self, count: usize) {
        self.rest = &self.rest[count..];
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_no_picture_says_why() {
        assert_eq!(decode(b""), Err("the file is empty".into()));
        assert_eq!(decode(b"hello, I am text"), Err("it is neither jpg, png nor gif".into()));
        assert!(decode(&[0xFF, 0xD8, 0xFF, 0xE0, 0, 16]).is_err());
    }

    #[test]
    fn a_cut_off_picture_is_an_error() {
        for name in ["rocket.jpg", "text.png"] {
            let bytes = std::fs::read(format!("{}/../../tests/images/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            assert!(decode(&bytes).is_ok(), "{name}");
            for part in [100, bytes.len() / 2, bytes.len() - 1000, bytes.len() - 14] {
                assert!(decode(&bytes[..part]).is_err(), "{name} cut at {part}");
            }
        }
    }

    #[test]
    fn inks_become_colours() {
        assert_eq!(
            inverted_cmyk_to_rgb(&[255, 255, 255, 255, 0, 255, 255, 255, 9, 9, 9, 0]),
            [255, 255, 255, 0, 255, 255, 0, 0, 0]
        );
    }
}
