//! A keyed permutation of `0..length`, computed by a Feistel network with cycle walking.

use super::philox::{Philox, Stream, mix};

const NUM_ROUNDS: usize = 6;

/// The order in which one epoch visits a data set: a bijection of `0..length`.
///
/// Each position is computed separately. This needs no memory for a data set of any size, and each rank can compute any
/// position.
#[derive(Debug, Clone)]
pub struct Permutation {
    length: u64,
    half_bits: u32,
    keys: [u64; NUM_ROUNDS],
}

impl Permutation {
    /// Returns the order of the epoch `epoch` for a data set of `length` items.
    #[must_use]
    pub fn new(seed: u64, epoch: u64, length: u64) -> Self {
        let mut random = Philox::new(seed, Stream::Permutation, epoch);
        // The network permutes numbers of two halves of equal width. Less than 3/4 of them are outside `0..length`, and
        // cycle walking skips those.
        let bits = u64::BITS - length.saturating_sub(1).leading_zeros();
        Self { length, half_bits: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| random.next_u64()) }
    }

    /// Returns the item at `position` of this epoch.
    ///
    /// # Panics
    /// If `position` is not less than the length.
    #[must_use]
    pub fn at(&self, position: u64) -> u64 {
        assert!(position < self.length, "position {position} of a permutation of {} items", self.length);
        let mut item = self.scramble(position);
        while item >= self.length {
            item = self.scramble(item);
        }
        item
    }

    /// Applies the Feistel network.
    fn scramble(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_visited_once() {
        for length in [1, 2, 3, 5, 64, 100, 1000, 60_000] {
            let order = Permutation::new(11, 2, length);
            let mut seen: Vec<u64> = (0..length).map(|position| order.at(position)).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..length), "length {length}");
        }
    }

    #[test]
    fn epochs_and_seeds_have_different_orders() {
        let order = |seed, epoch| {
            let order = Permutation::new(seed, epoch, 1000);
            (0..1000).map(|position| order.at(position)).collect::<Vec<_>>()
        };
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
    }

    #[test]
    fn neighbors_are_far_apart() {
        let order = Permutation::new(5, 0, 60_000);
        let mean =
            (1..60_000).map(|position| order.at(position).abs_diff(order.at(position - 1))).sum::<u64>() / 59_999;
        // The mean distance of two independent uniform positions is a third of the length.
        assert!((19_000..21_000).contains(&mean), "{mean}");
    }
}
