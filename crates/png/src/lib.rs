//! PNG files of 8-bit pixels.

use png::{BitDepth, ColorType, Compression, Encoder, Filter};

/// Returns an image as a PNG file. `pixels` is `[height, width, channels]`: grey, grey and alpha, RGB, or RGB and alpha. The
/// bytes depend on nothing else.
///
/// # Errors
/// If there are not 1 to 4 channels, a side is 0 or too large, or the sizes do not match the number of bytes. The error is
/// the reason.
pub fn encode(pixels: &[u8], [height, width, channels]: [usize; 3]) -> Result<Vec<u8>, String> {
    let color = match channels {
        1 => ColorType::Grayscale,
        2 => ColorType::GrayscaleAlpha,
        3 => ColorType::Rgb,
        4 => ColorType::Rgba,
        _ => return Err("it has 1 to 4 channels".into()),
    };
    let expected = height.checked_mul(width).and_then(|values| values.checked_mul(channels));
    if expected != Some(pixels.len()) {
        return Err(format!("it has {} bytes", pixels.len()));
    }
    let side = |pixels: usize| u32::try_from(pixels).map_err(|_| "it is too large".to_owned());
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, side(width)?, side(height)?);
    encoder.set_color(color);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    encoder.set_filter(Filter::Adaptive);
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(pixels)?;
        writer.finish()
    });
    written.map_err(|error| error.to_string())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_decoder_finds_the_same_pixels() {
        let pixels: Vec<u8> = (0..=255).cycle().take(5 * 7 * 4).collect();
        for channels in 1..=4 {
            let pixels = &pixels[..5 * 7 * channels];
            let file = encode(pixels, [5, 7, channels]).expect("the sizes match");
            let decoded = image::load_from_memory(&file).expect("a PNG");
            assert_eq!((decoded.height(), decoded.width()), (5, 7));
            assert_eq!(usize::from(decoded.color().channel_count()), channels);
            assert_eq!(decoded.as_bytes(), pixels);
            let mut same = Vec::new();
            let encoder = image::codecs::png::PngEncoder::new(&mut same);
            let written = image::ImageEncoder::write_image(encoder, pixels, 7, 5, decoded.color().into());
            assert!(written.is_ok() && same == file, "jobs have files of this form");
        }
    }

    #[test]
    fn sizes_that_do_not_match_are_refused() {
        for (length, shape) in
            [(0, [0, 3, 1]), (6, [2, 3, 0]), (30, [2, 3, 5]), (5, [2, 3, 1]), (6, [usize::MAX, 3, 2])]
        {
            assert!(encode(&vec![0; length], shape).is_err(), "{shape:?}");
        }
    }
}
