//! Kind `image_pipeline`: decoding, center crop and random crop of real images.

use admiral_data::{Pixels, decode, scale_short_side};
use serde::Deserialize;
use tch::Kind;

use super::support::{Case, Outcome, close, images};

#[derive(Deserialize)]
struct Picture {
    file: String,
    mode: String,
    width: usize,
    height: usize,
    size: usize,
    smaller_dim: usize,
    crop_y: usize,
    crop_x: usize,
}

/// JPEG decoders may differ by this many levels, in [`JPEG_PART`] of the values.
const JPEG_LEVELS: i64 = 2;
/// The part of the values in which JPEG decoders may differ.
const JPEG_PART: f64 = 1e-3;

pub fn check(case: &Case) -> Outcome {
    let pictures: Vec<Picture> = serde_json::from_value(case.config.clone()).map_err(|error| error.to_string())?;
    if pictures.is_empty() {
        return Err("the case names no picture".into());
    }
    pictures.iter().try_for_each(|picture| check_picture(case, picture).map_err(|e| format!("{}: {e}", picture.file)))
}

fn check_picture(case: &Case, picture: &Picture) -> Outcome {
    let bytes = std::fs::read(images().join(&picture.file)).map_err(|error| error.to_string())?;
    let colour = decode(&bytes)?.with_channels(3);
    if (colour.width, colour.height) != (picture.width, picture.height) {
        return Err(format!("{} x {} pixels", colour.width, colour.height));
    }
    let is_jpeg = picture.file.ends_with("jpg") || picture.file.ends_with("jpeg");
    // The golden rules require exact values of RGB and grey images, and of transparent and palette images after their
    // conversion.
    let exact = !is_jpeg && matches!(picture.mode.as_str(), "RGB" | "L" | "RGBA" | "P");
    if exact {
        let sum = |channel| colour.bytes.iter().skip(channel).step_by(3).map(|&value| i64::from(value)).sum::<i64>();
        let sums = tch::Tensor::from_slice(&[sum(0), sum(1), sum(2)]);
        close("rgb_sum", &sums, case.tensor(&format!("{}.rgb_sum", picture.file))?, 0.0)?;
    }
    let size = picture.size;
    let compare = |name: &str, actual: &Pixels| {
        let key = format!("{}.{name}.{size}", picture.file);
        let expected = case.tensor(&key)?;
        let actual = tch::Tensor::from_slice(&actual.bytes).reshape(expected.size());
        let difference = (actual.to_kind(Kind::Int64) - expected.to_kind(Kind::Int64)).abs();
        let (most, different) = (difference.max().int64_value(&[]), difference.gt(0).sum(Kind::Int64).int64_value(&[]));
        let allowed = if is_jpeg { (JPEG_PART * expected.numel() as f64) as i64 } else { 0 };
        if most > JPEG_LEVELS || different > allowed {
            return Err(format!("{name} {size}: {different} values differ, by at most {most}"));
        }
        Ok(())
    };
    let scaled = scale_short_side(&colour, size);
    compare("center", &scaled.crop((scaled.height - size) / 2, (scaled.width - size) / 2, size, false))?;
    let scaled = scale_short_side(&colour, picture.smaller_dim);
    compare("random", &scaled.crop(picture.crop_y, picture.crop_x, size, false))
}
