//! Subsets and orders of images as functions of a seed.

use admiral_random::{Permutation, mix};

/// What a subset is drawn for. Equal seeds give independent subsets for different purposes.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(crate) enum Purpose {
    /// Generated images for the kernel distance.
    KernelGenerated = 1,
    /// Reference images for the kernel distance.
    KernelReference = 2,
    /// The order of images for the inception score.
    InceptionScore = 3,
    /// The division of images into blocks.
    Blocks = 4,
}

/// Returns the first `size` indices of the permutation of `0..num` with the given number.
pub(crate) fn draw(seed: u64, purpose: Purpose, number: u64, num: usize, size: usize) -> Vec<usize> {
    let order = Permutation::new(mix(seed ^ mix(purpose as u64)), number, num as u64);
    (0..size as u64).map(|position| order.at(position) as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_have_different_rows_and_differ_by_seed_purpose_and_number() {
        let first = draw(3, Purpose::KernelGenerated, 0, 1000, 500);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 500);
        assert_eq!(first, draw(3, Purpose::KernelGenerated, 0, 1000, 500));
        assert_ne!(first, draw(4, Purpose::KernelGenerated, 0, 1000, 500));
        assert_ne!(first, draw(3, Purpose::KernelReference, 0, 1000, 500));
        assert_ne!(first, draw(3, Purpose::KernelGenerated, 1, 1000, 500));
    }
}
