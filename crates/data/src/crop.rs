//! Crops images to squares: the center crop and the random crop of the published implementation.

use admiral_random::{Philox, Stream};

use super::buffers::Buffers;
use super::pixels::Pixels;
use super::resample::{Rectangle, resize, resize_part};
use super::windows::Filter;

/// The random decisions about the crop and the flip of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    /// The random crop. `None` means the center crop.
    pub crop: Option<RandomCrop>,
    /// Whether the image is mirrored.
    pub flip: bool,
}

/// A random crop, for an image of any size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomCrop {
    /// The length in pixels to which the short side of the image is resized.
    pub short_side: usize,
    /// The position of the crop's top edge, as a fraction of the possible positions in units of 2^-32.
    pub top: u32,
    /// The position of the crop's left edge, in the same units.
    pub left: u32,
}

impl Draws {
    /// Returns the decisions about the sample with the global index `index`. `size` is the side of the sample in
    /// pixels.
    #[must_use]
    pub fn new(seed: u64, index: u64, size: usize, random_crop: bool, random_flip: bool) -> Self {
        let mut random = Philox::new(seed, Stream::Augmentation, index);
        // Draw all numbers in any case, so that each option leaves the numbers of the other unchanged.
        let flip = random.next_u32() & 1 == 1;
        let longest = (size as f64 / 0.8).ceil() as u64;
        let short_side = size + random.below(longest - size as u64 + 1) as usize;
        let crop = RandomCrop { short_side, top: random.next_u32(), left: random.next_u32() };
        Self { crop: random_crop.then_some(crop), flip: random_flip && flip }
    }

    /// Returns the length in pixels to which the short side of an image is resized for a sample of `size` pixels.
    #[must_use]
    pub fn short_side(&self, size: usize) -> usize {
        self.crop.map_or(size, |crop| crop.short_side)
    }
}

/// Resizes and crops an image to a square of `size` x `size` pixels: [`halve`], then [`cut`]. Takes its memory from
/// `buffers`.
#[must_use]
pub fn square(image: &Pixels, size: usize, draws: &Draws, buffers: &mut Buffers) -> Pixels {
    match halve(image, draws.short_side(size), buffers) {
        Some(halved) => {
            let square = cut(&halved, size, draws, buffers);
            buffers.keep(halved);
            square
        }
        None => cut(image, size, draws, buffers),
    }
}

/// Halves an image with the box filter while its short side is at least twice `length` pixels. `None` if it is shorter.
///
/// Halving before the bicubic filter is faster and avoids aliasing.
#[must_use]
pub fn halve(image: &Pixels, length: usize, buffers: &mut Buffers) -> Option<Pixels> {
    let mut halved: Option<Pixels> = None;
    loop {
        let current = halved.as_ref().unwrap_or(image);
        if current.short_side() < 2 * length {
            return halved;
        }
        let (width, height) = (current.width / 2, current.height / 2);
        let whole = Rectangle { x: 0, y: 0, width, height };
        let half = resize_part(current, width, height, Filter::Box, whole, buffers);
        if let Some(last) = halved.replace(half) {
            buffers.keep(last);
        }
    }
}

/// Resizes an image with the bicubic filter, so that its short side has the length of the draws, and crops it to a square
/// of `size` x `size` pixels. Only the pixels of the crop are computed.
///
/// # Panics
/// If `size` is larger than the length of the draws.
#[must_use]
pub fn cut(image: &Pixels, size: usize, draws: &Draws, buffers: &mut Buffers) -> Pixels {
    let (width, height) = scaled_size(image, draws.short_side(size));
    let (x, y) = match draws.crop {
        None => ((width - size) / 2, (height - size) / 2),
        Some(RandomCrop { top, left, .. }) => {
            let position =
                |num_positions: usize, fraction: u32| ((num_positions as u64 * u64::from(fraction)) >> 32) as usize;
            (position(width - size + 1, left), position(height - size + 1, top))
        }
    };
    let part = Rectangle { x, y, width: size, height: size };
    let mut cut = resize_part(image, width, height, Filter::Bicubic, part, buffers);
    if draws.flip {
        cut.mirror();
    }
    cut
}

/// Returns the width and the height of an image whose short side is resized to `length` pixels.
fn scaled_size(image: &Pixels, length: usize) -> (usize, usize) {
    let scale = length as f64 / image.short_side() as f64;
    let scaled = |side: usize| (side as f64 * scale).round_ties_even() as usize;
    (scaled(image.width), scaled(image.height))
}

/// Resizes an image so that its short side has `length` pixels: [`halve`], then the bicubic filter.
#[must_use]
pub fn scale_short_side(image: &Pixels, length: usize) -> Pixels {
    let halved = halve(image, length, &mut Buffers::default());
    let current = halved.as_ref().unwrap_or(image);
    let (width, height) = scaled_size(current, length);
    resize(current, width, height, Filter::Bicubic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_seed_and_index_and_options_are_independent() {
        let draw = |index, crop, flip| Draws::new(5, index, 64, crop, flip);
        assert_eq!(draw(3, true, true), draw(3, true, true));
        assert_eq!(draw(3, true, true).crop, draw(3, true, false).crop);
        assert_eq!(draw(3, true, true).flip, draw(3, false, true).flip);
        let sides: Vec<usize> = (0..500).filter_map(|i| draw(i, true, true).crop).map(|c| c.short_side).collect();
        assert_eq!((sides.iter().min(), sides.iter().max()), (Some(&64), Some(&80)));
        let flips = (0..1000).filter(|&i| draw(i, true, true).flip).count();
        assert!((430..570).contains(&flips), "{flips}");
    }

    #[test]
    fn every_crop_position_can_be_drawn() {
        let image =
            Pixels { width: 66, height: 64, channels: 1, bytes: (0..66 * 64).map(|i| (i % 66) as u8).collect() };
        let left = |left| {
            let crop = Some(RandomCrop { short_side: 64, top: u32::MAX, left });
            square(&image, 64, &Draws { crop, flip: false }, &mut Buffers::default()).bytes[0]
        };
        assert_eq!((left(0), left(u32::MAX / 2), left(u32::MAX)), (0, 1, 2));
    }
}
