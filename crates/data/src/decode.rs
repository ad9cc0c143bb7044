//! Decodes image files to the same pixels as Pillow's `open(...).convert("RGB")`.

use std::any::Any;
use std::borrow::Cow;
use std::cell::Cell;
use std::io::{BufRead, Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use mozjpeg::{ColorSpace, Decompress};

use super::gif_screen::enlarge_to_first_frame;
use super::limits::refusal;
use super::pixels::Pixels;
use super::png_repair::repair;

/// Decodes a jpg, a png, or the first frame of a gif. The result has 1 channel if the image is gray, otherwise 3. The
/// format is detected from the content. Transparency is discarded. Damage to a png that leaves its pixels whole is ignored.
///
/// # Errors
/// If the bytes are not a complete image of one of these formats. The error is the reason.
pub fn decode(bytes: &[u8]) -> Result<Pixels, String> {
    if bytes.starts_with(&[0xFF, 0xD8]) { decode_jpeg(bytes) } else { decode_other(bytes) }
}

fn decode_other(bytes: &[u8]) -> Result<Pixels, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let mut bytes = Cow::Borrowed(bytes);
    if bytes.starts_with(b"GIF8") {
        enlarge_to_first_frame(bytes.to_mut());
    }
    let reader = ImageReader::new(Cursor::new(&bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    if reader.format().is_none() {
        return Err("it is neither jpg, png nor gif".into());
    }
    decode_with(reader).or_else(|reason| {
        // The first reason is about the file as it is.
        let repaired = repair(&bytes).ok_or_else(|| reason.clone())?;
        let reader = ImageReader::with_format(Cursor::new(&repaired), ImageFormat::Png);
        decode_with(reader).map_err(|_| reason)
    })
}

fn decode_with(reader: ImageReader<Cursor<impl AsRef<[u8]>>>) -> Result<Pixels, String> {
    let decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    if let Some(reason) = refusal(width as usize, height as usize) {
        return Err(reason);
    }
    let image = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let high_bytes = |values: &[u16]| values.iter().map(|value| (value >> 8) as u8).collect::<Vec<u8>>();
    let (channels, bytes) = match image {
        DynamicImage::ImageLuma8(gray) => (1, gray.into_raw()),
        DynamicImage::ImageLumaA8(gray) => (1, gray.pixels().map(|pixel| pixel[0]).collect()),
        // Keep the high byte of 16 bits, as Pillow does for color. For gray, Pillow clips all values above 255 to 255,
        // which would lose the image.
        DynamicImage::ImageLuma16(gray) => (1, high_bytes(gray.as_raw())),
        DynamicImage::ImageLumaA16(gray) => (1, gray.pixels().map(|pixel| (pixel[0] >> 8) as u8).collect()),
        DynamicImage::ImageRgb16(color) => (3, high_bytes(color.as_raw())),
        DynamicImage::ImageRgba16(color) => {
            (3, color.pixels().flat_map(|pixel| [pixel[0], pixel[1], pixel[2]].map(|v| (v >> 8) as u8)).collect())
        }
        other => (3, other.into_rgb8().into_raw()),
    };
    Ok(Pixels { width, height, channels, bytes })
}

fn decode_jpeg(bytes: &[u8]) -> Result<Pixels, String> {
    let ran_out = Cell::new(false);
    // mozjpeg reports libjpeg's errors by unwinding.
    let decoded = catch_unwind(AssertUnwindSafe(|| decompress(bytes, &ran_out)));
    let pixels = decoded.map_err(|panic| panic_text(&*panic))?.map_err(|error| error.to_string())?;
    // For a truncated file, libjpeg fills the missing part with gray and returns no error.
    if ran_out.get() { Err("the file ends too early".into()) } else { Ok(pixels) }
}

fn decompress(bytes: &[u8], ran_out: &Cell<bool>) -> std::io::Result<Pixels> {
    let decoder = Decompress::new_reader(EndDetector { rest: bytes, ran_out })?;
    let (width, height) = decoder.size();
    // Before the decoder allocates memory for the whole image.
    if let Some(reason) = refusal(width, height) {
        return Err(std::io::Error::other(reason));
    }
    let color_space = decoder.color_space();
    let wanted = match color_space {
        ColorSpace::JCS_GRAYSCALE => ColorSpace::JCS_GRAYSCALE,
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => ColorSpace::JCS_CMYK,
        _ => ColorSpace::JCS_RGB,
    };
    let mut started = decoder.to_colorspace(wanted)?;
    let (width, height) = (started.width(), started.height());
    let data: Vec<u8> = started.read_scanlines()?;
    // Read to the end of the image, to detect a file without an end marker.
    started.finish()?;
    let (channels, bytes) = match wanted {
        ColorSpace::JCS_GRAYSCALE => (1, data),
        ColorSpace::JCS_CMYK => (3, inverted_cmyk_to_rgb(&data)),
        _ => (3, data),
    };
    Ok(Pixels { width, height, channels, bytes })
}

/// Converts CMYK to RGB. The inks are inverted, as in Adobe's JPEG files. Pillow also assumes this.
fn inverted_cmyk_to_rgb(data: &[u8]) -> Vec<u8> {
    data.chunks_exact(4)
        .flat_map(|pixel| {
            let white = u32::from(pixel[3]);
            [0, 1, 2].map(|channel| {
                // Compute ink * white / 255 in integers, rounded.
                let product = u32::from(255 - pixel[channel]) * white + 128;
                white.saturating_sub(((product >> 8) + product) >> 8) as u8
            })
        })
        .collect()
}

/// Returns the message of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the decoder failed").to_owned()
}

/// A reader that records whether more bytes were requested than there are.
struct EndDetector<'a> {
    rest: &'a [u8],
    ran_out: &'a Cell<bool>,
}

impl Read for EndDetector<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for EndDetector<'_> {
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
    fn files_that_are_no_images_are_errors() {
        assert_eq!(decode(b""), Err("the file is empty".into()));
        assert_eq!(decode(b"hello, I am text"), Err("it is neither jpg, png nor gif".into()));
        assert!(decode(&[0xFF, 0xD8, 0xFF, 0xE0, 0, 16]).is_err());
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

    #[test]
    fn inverted_cmyk_becomes_rgb() {
        assert_eq!(
            inverted_cmyk_to_rgb(&[255, 255, 255, 255, 0, 255, 255, 255, 9, 9, 9, 0]),
            [255, 255, 255, 0, 255, 255, 0, 0, 0]
        );
    }
}
