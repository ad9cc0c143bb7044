//! From a picture of any size to a square one: the centre crop and the random crop of the published implementation.

use admiral_random::{Philox, Stream};

use super::pixels::Pixels;
use super::resample::{Filter, resize};

/// What chance decides about one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    /// Random crop: the short side that the picture is resized to, and the corner of the crop as fractions of the
    /// room there is, in units of 2^-32.
    pub crop: Option<RandomCrop>,
    /// Whether the picture is mirrored.
    pub flip: bool,
}

/// The draws of a random crop, apart from the picture's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomCrop {
    /// The length that the short side is resized to.
    pub short_side: usize,
    /// Place of the crop's top edge: 0 is the top, 2^32 would be just past the last place.
    pub top: u32,
    /// Place of the crop's left edge.
    pub left: u32,
}

impl Draws {
    /// The draws of global sample `index`: a function of it and the seed alone.
    #[must_use]
    pub fn new(seed: u64, index: u64, size: usize, random_crop: bool, random_flip: bool) -> Self {
        let mut random = Philox::new(seed, Stream::Augmentation, index);
        // All are drawn whether used or not, so that one option does not change another's outcome.
        let flip = random.next_u32() & 1 == 1;
        let longest = (size as f64 / 0.8).ceil() as u64;
        let short_side = size + random.below(longest - size as u64 + 1) as usize;
        let crop = RandomCrop { short_side, top: random.next_u32(), left: random.next_u32() };
        Self { crop: random_crop.then_some(crop), flip: random_flip && flip }
    }
}

/// The square of `size` pixels that a sample gets of its picture.
#[must_use]
pub fn square(picture: &Pixels, size: usize, draws: &Draws) -> Pixels {
    match draws.crop {
        None => {
            let scaled = scale_short_side(picture, size);
            let (y, x) = ((scaled.height - size) / 2, (scaled.width - size) / 2);
            scaled.crop(y, x, size, draws.flip)
        }
        Some(RandomCrop { short_side, top, left }) => {
            let scaled = scale_short_side(picture, short_side);
            let place = |room: usize, fraction: u32| ((room as u64 * u64::from(fraction)) >> 32) as usize;
            let y = place(scaled.height - size + 1, top);
            let x = place(scaled.width - size + 1, left);
            scaled.crop(y, x, size, draws.flip)
        }
    }
}

/// Resizes so that the short side has `length` pixels: halved with a box while it is at least twice as long, then
/// bicubic. Halving first is much faster and blurs away what bicubic would alias.
#[must_use]
pub fn scale_short_side(picture: &Pixels, length: usize) -> Pixels {
    let mut halved: Option<Pixels> = None;
    loop {
        let current = halved.as_ref().unwrap_or(picture);
        if current.short_side() < 2 * length {
            break;
        }
        halved = Some(resize(current, current.width / 2, current.height / 2, Filter::Box));
    }
    let current = halved.as_ref().unwrap_or(picture);
    let scale = length as f64 / current.short_side() as f64;
    let scaled = |side: usize| (side as f64 * scale).round_ties_even() as usize;
    resize(current, scaled(current.width), scaled(current.height), Filter::Bicubic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_functions_of_seed_and_index_and_options_do_not_mix() {
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
    fn every_corner_can_be_drawn() {
        let picture =
            Pixels { width: 66, height: 64, channels: 1, bytes: (0..66 * 64).map(|i| (i % 66) as u8).collect() };
        let left = |left| {
            let crop = Some(RandomCrop { short_side: 64, top: u32::MAX, left });
            square(&picture, 64, &Draws { crop, flip: false }).bytes[0]
        };
        assert_eq!((left(0), left(u32::MAX / 2), left(u32::MAX)), (0, 1, 2));
    }
}
