//! Decodes PNG files to the pixels of Pillow's `convert("RGB")`.

use std::io::Cursor;

use png::{BitDepth, DecodeOptions, Decoder, DecodingError, Limits, Transformations};

use super::limits::refusal;
use super::pixels::Pixels;
use super::png_repair::repair;

/// The most memory that the metadata of a file may take, in bytes.
const MAX_METADATA_BYTES: usize = 512 << 20;

/// Returns whether the bytes begin like a PNG file.
pub(crate) fn is_png(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG\r\n\x1a\n")
}

/// Decodes a PNG file, or the default image of an animated one. Damage after the pixels, and wrong CRCs of the chunks of
/// pixels are ignored. The Adler-32 of the pixels is checked.
///
/// # Errors
/// If the pixels are damaged or missing, or the size is refused. The error is the reason.
pub(crate) fn decode_png(bytes: &[u8]) -> Result<Pixels, String> {
    decode_whole(bytes).or_else(|reason| {
        // The first reason is about the file as it is.
        let repaired = repair(bytes).ok_or_else(|| reason.clone())?;
        decode_whole(&repaired).map_err(|_| reason)
    })
}

/// Returns the width and the height of a PNG file.
///
/// # Errors
/// If its header is damaged. The error is the reason.
pub(crate) fn png_size(bytes: &[u8]) -> Result<(usize, usize), String> {
    let mut decoder = Decoder::new(Cursor::new(bytes));
    let header = decoder.read_header_info().map_err(|error| error.to_string())?;
    Ok((header.width as usize, header.height as usize))
}

fn decode_whole(bytes: &[u8]) -> Result<Pixels, String> {
    let wrong = |error: DecodingError| format!("its png data are damaged: {error}");
    let mut options = DecodeOptions::default();
    // By default the decoder ignores the Adler-32 checksum. Files whose CRC is wrong have no other check of their pixels.
    options.set_ignore_adler32(false);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_limits(Limits { bytes: MAX_METADATA_BYTES });
    // Palettes become colors, and fewer than 8 bits become 8.
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info().map_err(wrong)?;
    let (width, height) = (header.width as usize, header.height as usize);
    if let Some(reason) = refusal(width, height) {
        return Err(reason);
    }
    let mut reader = decoder.read_info().map_err(wrong)?;
    let (color, depth) = reader.output_color_type();
    let length = reader.output_buffer_size().ok_or_else(|| wrong(DecodingError::LimitsExceeded))?;
    let mut values = vec![0; length];
    reader.next_frame(&mut values).map_err(wrong)?;
    // Keeps the high byte of 16 bits, as Pillow does for color. For gray, Pillow clips all values above 255 to 255, which
    // would lose the image.
    let num_bytes = if depth == BitDepth::Sixteen { 2 } else { 1 };
    let samples = color.samples();
    let channels = if samples < 3 { 1 } else { 3 };
    let bytes = if num_bytes == 1 && samples == channels {
        values
    } else {
        let pixels = values.chunks_exact(samples * num_bytes);
        pixels.flat_map(|pixel| pixel.iter().step_by(num_bytes).take(channels)).copied().collect()
    };
    Ok(Pixels { width, height, channels, bytes })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use flate2::Crc;

    /// A png of 3 rows of 4 gray pixels whose stream is stored, not compressed. `change` changes the stream of zlib, in
    /// chunks of `piece` bytes, whose CRCs are then right.
    fn stored(change: impl Fn(&mut Vec<u8>), piece: usize) -> Vec<u8> {
        let rows = [[0, 10, 20, 30, 40], [0, 50, 60, 70, 80], [0, 90, 100, 110, 120]].concat();
        let mut stream = vec![0x78, 0x01, 1, 15, 0, 0xF0, 0xFF];
        let (one, two) = rows.iter().fold((1, 0), |(one, two), &value| {
            let one = (one + u32::from(value)) % 65_521;
            (one, (two + one) % 65_521)
        });
        stream.extend(rows);
        stream.extend((two << 16 | one).to_be_bytes());
        change(&mut stream);
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut chunk = |kind: &[u8], content: &[u8]| {
            file.extend((content.len() as u32).to_be_bytes());
            let mut crc = Crc::new();
            for part in [kind, content] {
                file.extend(part);
                crc.update(part);
            }
            file.extend(crc.sum().to_be_bytes());
        };
        chunk(b"IHDR", &[0, 0, 0, 4, 0, 0, 0, 3, 8, 0, 0, 0, 0]);
        stream.chunks(piece).for_each(|content| chunk(b"IDAT", content));
        chunk(b"IEND", &[]);
        file
    }

    #[test]
    fn damaged_pixels_are_errors_whatever_the_checksums_of_the_chunks_are() {
        for piece in [1, 5, 100] {
            let whole = stored(|_| (), piece);
            assert_eq!(decode_png(&whole).unwrap().bytes, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120]);
        }
        // A pixel, and each byte of the checksum.
        for place in [9, 20, 22, 23, 24, 25] {
            let damaged = stored(|stream| stream[place] ^= 1, 100);
            assert!(decode_png(&damaged).is_err_and(|reason| reason.contains("damaged")), "byte {place}");
        }
        // The CRC of the chunk is wrong as well.
        let mut flipped = stored(|_| (), 100);
        let place = flipped.windows(2).position(|pair| pair == [60, 70]).unwrap();
        flipped[place] ^= 0xFF;
        assert!(decode_png(&flipped).is_err());
    }

    #[test]
    fn missing_checksums_of_whole_pixels_are_ignored() {
        let short = stored(|stream| stream.truncate(22), 100);
        assert_eq!(decode_png(&short).unwrap().bytes.len(), 12);
        assert!(decode_png(&stored(|stream| stream.truncate(21), 100)).is_err());
    }
}
