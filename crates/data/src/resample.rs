//! Resampling of 8-bit pictures, equal to Pillow's to the bit: each pass sums in fixed point with 22 fractional bits
//! and rounds to 8 bits.

use super::pixels::Pixels;

/// Fractional bits of a coefficient: 32 bits hold a pixel (8), two bits of headroom and these.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// A resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The mean of the pixels that a new pixel covers.
    Box,
    /// Cubic convolution with a = -0.5 (Keys 1981).
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bicubic => 2.0,
        }
    }

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

/// The pixels of the old line that make one pixel of the new line.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

fn windows(old: usize, new: usize, filter: Filter) -> Vec<Window> {
    let scale = old as f64 / new as f64;
    // Enlarging keeps the filter's own width; reducing widens it so that every old pixel counts.
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let inverse = 1.0 / filter_scale;
    (0..new)
        .map(|place| {
            let center = (place as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(old);
            let weights: Vec<f64> = (first..end).map(|x| filter.weight((x as f64 - center + 0.5) * inverse)).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: &f64| {
                let scaled = if sum == 0.0 { *weight } else { weight / sum } * f64::from(1 << PRECISION_BITS);
                // Rounds half away from zero, as a cast of x + 0.5 or x - 0.5 does.
                (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
            };
            Window { first, weights: weights.iter().map(fixed).collect() }
        })
        .collect()
}

fn round(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Resizes to `width` x `height` pixels.
#[must_use]
pub fn resize(picture: &Pixels, width: usize, height: usize, filter: Filter) -> Pixels {
    match (width == picture.width, height == picture.height) {
        (true, true) => picture.clone(),
        (false, true) => horizontal(picture, width, filter),
        (true, false) => vertical(picture, height, filter),
        _ if is_vertical_first(picture, width, height) => horizontal(&vertical(picture, height, filter), width, filter),
        _ => vertical(&horizontal(picture, width, filter), height, filter),
    }
}

/// Whether the height is reduced before the width is changed. The two orders round differently. Pillow 13 takes this
/// one, found by trying it, where the height loses more than twice as many pixels as the width: for the crop of
/// training that means pictures more than twice as tall as wide. Earlier versions never do.
fn is_vertical_first(picture: &Pixels, width: usize, height: usize) -> bool {
    let lost_width = picture.width as i64 - width as i64;
    let lost_height = picture.height as i64 - height as i64;
    lost_height > 0 && lost_height > 2 * lost_width
}

fn horizontal(picture: &Pixels, width: usize, filter: Filter) -> Pixels {
    let windows = windows(picture.width, width, filter);
    let mut bytes = Vec::with_capacity(picture.height * width * picture.channels);
    for row in picture.bytes.chunks_exact(picture.width * picture.channels) {
        match picture.channels {
            1 => horizontal_row::<1>(row, &windows, &mut bytes),
            _ => horizontal_row::<3>(row, &windows, &mut bytes),
        }
    }
    Pixels { width, bytes, ..*picture }
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

fn vertical(picture: &Pixels, height: usize, filter: Filter) -> Pixels {
    let stride = picture.width * picture.channels;
    let mut bytes = Vec::with_capacity(height * stride);
    let mut sums = vec![0i32; stride];
    for Window { first, weights } in windows(picture.height, height, filter) {
        sums.fill(1 << (PRECISION_BITS - 1));
        for (row, &weight) in picture.bytes[first * stride..].chunks_exact(stride).zip(&weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        bytes.extend(sums.iter().map(|&sum| round(sum)));
    }
    Pixels { height, bytes, ..*picture }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_picture_stays_flat() {
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
    fn halving_with_a_box_is_the_rounded_mean() {
        let picture = Pixels { width: 4, height: 1, channels: 1, bytes: vec![0, 3, 10, 20] };
        assert_eq!(resize(&picture, 2, 1, Filter::Box).bytes, [2, 15]);
    }
}
