//! Resampling of 8-bit images, with the same bits as Pillow. Each pass sums in fixed point with 22 fractional bits and
//! rounds to 8 bits.

use super::pixels::Pixels;

/// The number of fractional bits of a coefficient. A sum of 32 bits also has 8 bits for a pixel and 2 bits of headroom.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// A resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The mean of the old pixels that a new pixel covers.
    Box,
    /// Cubic convolution with a = -0.5 (Keys 1981).
    Bicubic,
}

impl Filter {
    /// Returns the half width of the filter.
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bicubic => 2.0,
        }
    }

    /// Returns the weight at the distance `x` from the center.
    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        match self {
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bicubic => match x.abs() {
                x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
                x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
                _ => 0.0,
            },
        }
    }
}

/// The pixels of an old line, from `first` on, that contribute to one pixel of the new line, and their weights.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// Returns a window for each of the `new` pixels of a line that has `old` pixels.
fn windows(old: usize, new: usize, filter: Filter) -> Vec<Window> {
    let scale = old as f64 / new as f64;
    // When reducing, widen the filter, so that every old pixel contributes.
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let inverse = 1.0 / filter_scale;
    (0..new)
        .map(|position| {
            let center = (position as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(old);
            let weights: Vec<f64> = (first..end).map(|x| filter.weight((x as f64 - center + 0.5) * inverse)).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: &f64| {
                let scaled = if sum == 0.0 { *weight } else { weight / sum } * f64::from(1 << PRECISION_BITS);
                // Round half away from zero, as Pillow does with a cast of x + 0.5 or x - 0.5.
                (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
            };
            Window { first, weights: weights.iter().map(fixed).collect() }
        })
        .collect()
}

/// Rounds a fixed-point sum to a pixel. The sum already includes one half.
fn round(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Resizes an image to `width` x `height` pixels.
#[must_use]
pub fn resize(image: &Pixels, width: usize, height: usize, filter: Filter) -> Pixels {
    match (width == image.width, height == image.height) {
        (true, true) => image.clone(),
        (false, true) => horizontal(image, width, filter),
        (true, false) => vertical(image, height, filter),
        _ if is_vertical_first(image, width, height) => horizontal(&vertical(image, height, filter), width, filter),
        _ => vertical(&horizontal(image, width, filter), height, filter),
    }
}

/// Returns whether the height is changed before the width. The two orders round differently.
///
/// Experiments with Pillow 13 show that it changes the height first if the height loses more than twice as many pixels
/// as the width. For the crop of training, these are images more than twice as tall as wide. Earlier versions of Pillow
/// always change the width first.
fn is_vertical_first(image: &Pixels, width: usize, height: usize) -> bool {
    let lost_width = image.width as i64 - width as i64;
    let lost_height = image.height as i64 - height as i64;
    lost_height > 0 && lost_height > 2 * lost_width
}

/// Changes the width.
fn horizontal(image: &Pixels, width: usize, filter: Filter) -> Pixels {
    let windows = windows(image.width, width, filter);
    let mut bytes = Vec::with_capacity(image.height * width * image.channels);
    for row in image.bytes.chunks_exact(image.width * image.channels) {
        match image.channels {
            1 => horizontal_row::<1>(row, &windows, &mut bytes),
            _ => horizontal_row::<3>(row, &windows, &mut bytes),
        }
    }
    Pixels { width, bytes, ..*image }
}

fn horizontal_row<const CHANNELS: usize>(row: &[u8], windows: &[Window], out: &mut Vec<u8>) {
    for Window { first, weights } in windows {
        let mut sums = [1i32 << (PRECISION_BITS - 1); CHANNELS];
        let pixels = row[first * CHANNELS..].chunks_exact(CHANNELS);
        for (pixel, &weight) in pixels.zip(weights) {
            for channel in 0..CHANNELS {
                sums[channel] += i32::from(pixel[channel]) * weight;
            }
        }
        out.extend(sums.map(round));
    }
}

/// Changes the height.
fn vertical(image: &Pixels, height: usize, filter: Filter) -> Pixels {
    let stride = image.width * image.channels;
    let mut bytes = Vec::with_capacity(height * stride);
    let mut sums = vec![0i32; stride];
    for Window { first, weights } in windows(image.height, height, filter) {
        sums.fill(1 << (PRECISION_BITS - 1));
        for (row, &weight) in image.bytes[first * stride..].chunks_exact(stride).zip(&weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        bytes.extend(sums.iter().map(|&sum| round(sum)));
    }
    Pixels { height, bytes, ..*image }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_one_value_keeps_it() {
        let flat = Pixels { width: 37, height: 23, channels: 3, bytes: vec![131; 37 * 23 * 3] };
        for (width, height) in [(18, 11), (64, 40), (37, 9)] {
            for filter in [Filter::Box, Filter::Bicubic] {
                let resized = resize(&flat, width, height, filter);
                assert_eq!(resized.bytes.len(), width * height * 3);
                assert!(resized.bytes.iter().all(|&value| value == 131));
            }
        }
    }

    #[test]
    fn halving_with_the_box_filter_gives_the_rounded_mean() {
        let image = Pixels { width: 4, height: 1, channels: 1, bytes: vec![0, 3, 10, 20] };
        assert_eq!(resize(&image, 2, 1, Filter::Box).bytes, [2, 15]);
    }
}
