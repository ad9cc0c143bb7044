//! Resampling of 8-bit images, with the same bits as Pillow. Each pass sums in fixed point with 22 fractional bits and
//! rounds to 8 bits.

use super::passes::{Lines, horizontal, vertical};
use super::pixels::Pixels;

/// The number of fractional bits of a coefficient. A sum of 32 bits also has 8 bits for a pixel and 2 bits of headroom.
pub(crate) const PRECISION_BITS: u32 = 32 - 8 - 2;

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

/// For some neighboring pixels of a new line: the pixels of the old line that contribute to each, and their weights.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    /// The first old pixel of each window.
    pub(crate) firsts: Vec<usize>,
    /// The number of old pixels of each window.
    pub(crate) counts: Vec<usize>,
    /// The weights of all windows, `stride` for each. Those after the window's count are 0.
    pub(crate) weights: Vec<i32>,
    pub(crate) stride: usize,
    /// Whether each window is the mean of two old pixels, and the windows follow each other without a gap.
    pub(crate) is_half: bool,
}

impl Windows {
    /// Returns the windows of the `kept` pixels of a line of `new` pixels that is made from `old` pixels.
    pub(crate) fn new(old: usize, new: usize, kept: std::ops::Range<usize>, filter: Filter) -> Self {
        let scale = old as f64 / new as f64;
        // When reducing, widen the filter, so that every old pixel contributes.
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let inverse = 1.0 / filter_scale;
        let stride = (2 * support.ceil() as usize + 1).next_multiple_of(4);
        let mut windows = Self {
            firsts: Vec::with_capacity(kept.len()),
            counts: Vec::with_capacity(kept.len()),
            weights: vec![0; kept.len() * stride],
            stride,
            is_half: filter == Filter::Box && old == 2 * new,
        };
        let mut exact = vec![0.0; stride];
        for (position, fixed) in kept.zip(windows.weights.chunks_exact_mut(stride)) {
            let center = (position as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(old);
            let exact = &mut exact[..end - first];
            let mut sum = 0.0;
            for (x, weight) in (first..end).zip(exact.iter_mut()) {
                *weight = filter.weight((x as f64 - center + 0.5) * inverse);
                sum += *weight;
            }
            for (weight, fixed) in exact.iter().zip(fixed) {
                let scaled = if sum == 0.0 { *weight } else { weight / sum } * f64::from(1 << PRECISION_BITS);
                // Round half away from zero, as Pillow does with a cast of x + 0.5 or x - 0.5.
                *fixed = (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32;
            }
            windows.firsts.push(first);
            windows.counts.push(end - first);
        }
        windows
    }

    /// Returns the range of old pixels that contribute to any of the new ones.
    fn sources(&self) -> std::ops::Range<usize> {
        let start = self.firsts.first().copied().unwrap_or(0);
        let ends = self.firsts.iter().zip(&self.counts).map(|(first, count)| first + count);
        start..ends.max().unwrap_or(start)
    }

    /// Makes the windows those of a line that lacks its first `skipped` pixels.
    fn shift(&mut self, skipped: usize) {
        self.firsts.iter_mut().for_each(|first| *first -= skipped);
    }
}

/// A rectangle of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rectangle {
    /// The left edge in pixels.
    pub x: usize,
    /// The top edge in pixels.
    pub y: usize,
    /// The width in pixels.
    pub width: usize,
    /// The height in pixels.
    pub height: usize,
}

/// Resizes an image to `width` x `height` pixels.
#[must_use]
pub fn resize(image: &Pixels, width: usize, height: usize, filter: Filter) -> Pixels {
    resize_part(image, width, height, filter, Rectangle { x: 0, y: 0, width, height })
}

/// Returns the part `part` of the image that [`resize`] returns, without computing the rest.
///
/// # Panics
/// If the part is not inside the resized image.
#[must_use]
pub fn resize_part(image: &Pixels, width: usize, height: usize, filter: Filter, part: Rectangle) -> Pixels {
    let Rectangle { x, y, width: part_width, height: part_height } = part;
    assert!(x + part_width <= width && y + part_height <= height, "{part:?} is outside of {width} x {height} pixels");
    let (columns, rows) = (x..x + part_width, y..y + part_height);
    let lines = Lines::all(image);
    match (width == image.width, height == image.height) {
        (true, true) => lines.part(columns, rows),
        (false, true) => horizontal(lines.rows(rows), &Windows::new(image.width, width, columns, filter)),
        (true, false) => vertical(lines.columns(columns), &Windows::new(image.height, height, rows, filter)),
        _ => {
            let mut across = Windows::new(image.width, width, columns, filter);
            let mut down = Windows::new(image.height, height, rows, filter);
            if is_vertical_first(image, width, height) {
                let sources = across.sources();
                across.shift(sources.start);
                let reduced = vertical(lines.columns(sources), &down);
                horizontal(Lines::all(&reduced), &across)
            } else {
                let sources = down.sources();
                down.shift(sources.start);
                let reduced = horizontal(lines.rows(sources), &across);
                vertical(Lines::all(&reduced), &down)
            }
        }
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

    #[test]
    fn a_part_has_the_pixels_of_the_whole() {
        let part = Rectangle { x: 5, y: 3, width: 11, height: 6 };
        for channels in [1, 3] {
            let bytes = (0..47 * 61 * channels).map(|index| (index * index % 251) as u8).collect();
            let image = Pixels { width: 47, height: 61, channels, bytes };
            for (width, height) in [(47, 61), (20, 61), (47, 30), (23, 30), (80, 90), (40, 12)] {
                for filter in [Filter::Box, Filter::Bicubic] {
                    let whole = resize(&image, width, height, filter);
                    let square = resize_part(&image, width, height, filter, part);
                    let expected = Lines::all(&whole).part(5..16, 3..9);
                    assert_eq!(square, expected, "{channels} {width} x {height} {filter:?}");
                }
            }
        }
    }
}
