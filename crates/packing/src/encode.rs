//! Image files of pixels.

use admiral_data::{Format, Pixels, encode_jpeg};
use admiral_telemetry::Grid;

use crate::settings::StoredAs;

/// Encodes an image, and returns the file with its format.
///
/// # Errors
/// If the format cannot hold the image. The error is the reason.
pub(crate) fn encode(image: Pixels, stored_as: StoredAs) -> Result<(Format, Vec<u8>), String> {
    match stored_as {
        StoredAs::Keep | StoredAs::Raw => Ok(plain(&image)),
        StoredAs::Png => Ok((Format::Png, png(image)?)),
        StoredAs::Jpeg(quality) => Ok((Format::Jpeg, encode_jpeg(&image, quality)?)),
    }
}

/// Returns a binary PPM, or a PGM if the image is grey.
fn plain(image: &Pixels) -> (Format, Vec<u8>) {
    let (format, magic) = if image.channels == 1 { (Format::Pgm, "P5") } else { (Format::Ppm, "P6") };
    let header = format!("{magic}\n{} {}\n255\n", image.width, image.height);
    (format, [header.as_bytes(), &image.bytes].concat())
}

/// Returns a PNG file.
///
/// # Errors
/// If PNG cannot hold the image. The error is the reason.
fn png(image: Pixels) -> Result<Vec<u8>, String> {
    let Pixels { width, height, channels, bytes } = image;
    Grid { width, height, channels, pixels: bytes }.png().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use admiral_data::decode;

    use super::*;

    #[test]
    fn formats_without_loss_keep_each_pixel_and_the_format_is_told() {
        for channels in [1, 3] {
            let bytes = (0..7 * 5 * channels).map(|i| (i * 37 % 256) as u8).collect();
            let image = Pixels { width: 7, height: 5, channels, bytes };
            for stored_as in [StoredAs::Raw, StoredAs::Png, StoredAs::Jpeg(90)] {
                let (format, file) = encode(image.clone(), stored_as).unwrap();
                assert_eq!(Format::of(&file), Some(format));
                let decoded = decode(&file).unwrap();
                assert_eq!((decoded.width, decoded.height, decoded.channels), (7, 5, channels));
                assert!(matches!(stored_as, StoredAs::Jpeg(_)) || decoded == image);
            }
        }
    }
}
