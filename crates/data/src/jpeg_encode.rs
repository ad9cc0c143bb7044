//! Encodes JPEG files with libjpeg: baseline, without subsampling of colour.

use std::ffi::c_ulong;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg_sys::{
    J_COLOR_SPACE, J_INT_PARAM, JINT_COMPRESS_PROFILE_VALUE, boolean, jpeg_c_set_int_param, jpeg_compress_struct,
    jpeg_create_compress, jpeg_destroy_compress, jpeg_error_mgr, jpeg_finish_compress, jpeg_mem_dest,
    jpeg_set_defaults, jpeg_set_quality, jpeg_start_compress, jpeg_std_error, jpeg_write_scanlines,
};

use super::jpeg::{ignore_message, panic_text, unwind};
use super::pixels::Pixels;

/// The longest side that libjpeg encodes, in pixels.
const MAX_SIDE: usize = 65_500;

/// Encodes an image of 1 or 3 channels as a JPEG file of a quality from 1 to 100, with a colour for each pixel (4:4:4). The
/// same image always has the same bytes.
///
/// # Errors
/// If the image is larger than JPEG allows, or has no pixels. The error is the reason.
pub fn encode_jpeg(image: &Pixels, quality: u8) -> Result<Vec<u8>, String> {
    let Pixels { width, height, channels, ref bytes } = *image;
    if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE {
        return Err(format!("it has {width} x {height} pixels, and JPEG has sides of 1 to {MAX_SIDE}"));
    }
    if !matches!(channels, 1 | 3) || bytes.len() != width * height * channels {
        return Err(format!("{} bytes are no {width} x {height} pixels of 1 or 3 channels", bytes.len()));
    }
    // libjpeg reports errors by unwinding.
    let encoded = catch_unwind(AssertUnwindSafe(|| compress(image, quality)));
    encoded.unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

/// libjpeg's compressor. It points to its parts, so they do not move.
struct Compressor {
    info: Box<jpeg_compress_struct>,
    _errors: Box<jpeg_error_mgr>,
}

impl Compressor {
    fn new() -> Self {
        // SAFETY: all fields of both structs are numbers, pointers that may be null, or enums with a variant 0. libjpeg
        // fills them before it reads them.
        let (mut info, mut errors) = unsafe {
            (Box::new(std::mem::zeroed::<jpeg_compress_struct>()), Box::new(std::mem::zeroed::<jpeg_error_mgr>()))
        };
        // SAFETY: the boxes live as long as the compressor.
        unsafe {
            jpeg_std_error(&mut errors);
            errors.error_exit = Some(unwind);
            errors.emit_message = Some(ignore_message);
            info.common.err = &raw mut *errors;
            jpeg_create_compress(&raw mut *info);
        }
        Self { info, _errors: errors }
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        // SAFETY: the compressor was created, and is not used any more.
        unsafe { jpeg_destroy_compress(&mut self.info) }
    }
}

fn compress(image: &Pixels, quality: u8) -> Result<Vec<u8>, String> {
    let padded = |side: usize| side.next_multiple_of(16);
    // As much as libjpeg needs at most: 6 bytes for each pixel of whole blocks, and the headers.
    let mut file = vec![0_u8; padded(image.width) * padded(image.height) * 6 + 2048];
    let (mut start, mut length) = (file.as_mut_ptr(), file.len() as c_ulong);
    let own = start;
    let mut compressor = Compressor::new();
    let info = &mut *compressor.info;
    info.image_width = image.width as u32;
    info.image_height = image.height as u32;
    info.input_components = image.channels as i32;
    info.in_color_space = if image.channels == 1 { J_COLOR_SPACE::JCS_GRAYSCALE } else { J_COLOR_SPACE::JCS_RGB };
    // SAFETY: the compressor was created; `file`, `start` and `length` live until it is finished. After the defaults are
    // set, `comp_info` has one entry for each channel. Each row is one of the image, whose length was checked, and libjpeg
    // only reads it.
    unsafe {
        jpeg_mem_dest(info, &raw mut start, &raw mut length);
        let profile = JINT_COMPRESS_PROFILE_VALUE::JCP_FASTEST as u32;
        jpeg_c_set_int_param(info, J_INT_PARAM::JINT_COMPRESS_PROFILE, profile.cast_signed());
        jpeg_set_defaults(info);
        jpeg_set_quality(info, quality.into(), boolean::from(true));
        info.optimize_coding = boolean::from(true);
        for channel in 0..image.channels {
            let component = &mut *info.comp_info.add(channel);
            (component.h_samp_factor, component.v_samp_factor) = (1, 1);
        }
        jpeg_start_compress(info, boolean::from(true));
        for row in image.bytes.chunks_exact(image.width * image.channels) {
            let row = row.as_ptr();
            if jpeg_write_scanlines(info, &raw const row, 1) != 1 {
                return Err("libjpeg does not take its rows".into());
            }
        }
        jpeg_finish_compress(info);
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if start != own || length > file.len() {
        return Err("libjpeg made a larger file than it may".into());
    }
    file.truncate(length);
    file.shrink_to_fit();
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::decode;

    fn image(width: usize, height: usize, channels: usize) -> Pixels {
        let bytes = (0..width * height * channels).map(|i| (i * i % 251) as u8).collect();
        Pixels { width, height, channels, bytes }
    }

    #[test]
    fn an_image_is_close_to_itself_after_encoding_and_small_at_low_quality() {
        for channels in [1, 3] {
            let smooth: Vec<u8> =
                (0..37 * 21 * channels).map(|i| (i / channels % 37 * 5 + i % channels * 20) as u8).collect();
            let smooth = Pixels { width: 37, height: 21, channels, bytes: smooth };
            let file = encode_jpeg(&smooth, 95).unwrap();
            let decoded = decode(&file).unwrap();
            assert_eq!((decoded.width, decoded.height, decoded.channels), (37, 21, channels));
            let difference = decoded.bytes.iter().zip(&smooth.bytes).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(difference <= 12, "{difference}");
            assert!(encode_jpeg(&smooth, 10).unwrap().len() < file.len());
        }
    }

    #[test]
    fn colours_have_the_resolution_of_the_image() {
        // Sharp red and blue columns: with subsampling, neighbours would share their colour.
        let bytes = (0..16 * 16).flat_map(|i| if i % 2 == 0 { [255, 0, 0] } else { [0, 0, 255] }).collect();
        let decoded =
            decode(&encode_jpeg(&Pixels { width: 16, height: 16, channels: 3, bytes }, 100).unwrap()).unwrap();
        assert!(decoded.bytes[0] > 230 && decoded.bytes[2] < 25, "{:?}", &decoded.bytes[..6]);
        assert!(decoded.bytes[3] < 25 && decoded.bytes[5] > 230, "{:?}", &decoded.bytes[..6]);
    }

    #[test]
    fn noise_at_the_highest_quality_fits_and_impossible_images_are_errors() {
        for side in [1, 7, 16, 17, 65] {
            let noise = image(side, side, 3);
            assert!(decode(&encode_jpeg(&noise, 100).unwrap()).is_ok(), "{side}");
        }
        assert!(encode_jpeg(&image(0, 5, 1), 90).unwrap_err().contains("0 x 5"));
        assert!(encode_jpeg(&image(65_501, 1, 1), 90).unwrap_err().contains("65501 x 1"));
        assert!(encode_jpeg(&Pixels { bytes: vec![0; 5], ..image(2, 2, 3) }, 90).is_err());
    }
}
