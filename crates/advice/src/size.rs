//! Proposes the size of images.

use crate::choice::Choice;
use crate::survey::Pictures;

/// The sizes that are proposed, in pixels. The paper has no smaller ones than 64, and draws larger ones than 256 best
/// by an upsampler.
const SIZES: [u64; 5] = [16, 32, 64, 128, 256];

/// The largest size that is proposed for a CPU.
const LARGEST_ON_CPU: u64 = 32;

/// The largest size that is proposed for fewer images than [`IMAGES_FOR_LARGE`].
const LARGEST_FOR_FEW: u64 = 64;

/// The images that a size above [`LARGEST_FOR_FEW`] needs.
const IMAGES_FOR_LARGE: u64 = 10_000;

/// Proposes a size in pixels: the largest at which three quarters of the images need not be enlarged, or for images
/// that get a border the smallest that holds them all; within what a CPU, or few images, allow.
#[must_use]
pub fn propose_size(pictures: &Pictures, on_gpu: bool) -> Choice<u64> {
    let (own, reason) = if pictures.is_padded {
        let longest = pictures.short_sides.last().copied().unwrap_or(0);
        let own = SIZES.into_iter().find(|size| *size >= longest).unwrap_or(SIZES[SIZES.len() - 1]);
        (own, format!("the images have up to {longest} pixels, and get a border"))
    } else {
        let side = pictures.lower_quartile();
        let own = SIZES.into_iter().rev().find(|size| *size <= side).unwrap_or(SIZES[0]);
        (own, format!("short sides have {side} pixels or more in three quarters of the images"))
    };
    if !on_gpu && own > LARGEST_ON_CPU {
        return Choice::new(LARGEST_ON_CPU, "a CPU trains larger images too slowly; --size chooses");
    }
    if pictures.count < IMAGES_FOR_LARGE && own > LARGEST_FOR_FEW {
        return Choice::new(
            LARGEST_FOR_FEW,
            format!("{} images are few for larger ones; --size chooses", pictures.count),
        );
    }
    Choice::new(own, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures(count: u64, sides: &[u64], is_padded: bool) -> Pictures {
        Pictures { count, short_sides: sides.to_vec(), is_padded, ..Pictures::default() }
    }

    #[test]
    fn most_images_reach_the_size() {
        let sizes = |sides: &[u64]| propose_size(&pictures(1_000_000, sides, false), true).value;
        assert_eq!(sizes(&[100, 300, 300, 300]), 256);
        assert_eq!(sizes(&[100, 100, 300, 300]), 64);
        assert_eq!((sizes(&[8]), sizes(&[4000]), sizes(&[128])), (16, 256, 128));
    }

    #[test]
    fn a_border_makes_room_for_all() {
        let sizes = |sides: &[u64]| propose_size(&pictures(60_000, sides, true), false).value;
        assert_eq!((sizes(&[28]), sizes(&[8, 16]), sizes(&[32])), (32, 16, 32));
    }

    #[test]
    fn a_cpu_and_few_images_have_bounds() {
        assert_eq!(propose_size(&pictures(1_000_000, &[500], false), false).value, 32);
        let few = propose_size(&pictures(9_999, &[500], false), true);
        assert_eq!(few.value, 64);
        assert!(few.reason.contains("9999 images"), "{}", few.reason);
        assert_eq!(propose_size(&pictures(10_000, &[500], false), true).value, 256);
    }
}
