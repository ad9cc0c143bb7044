//! A keyed permutation of `0..length` that needs no list: a Feistel network with cycle walking.

use super::philox::{Philox, Stream, mix};

const NUM_ROUNDS: usize = 6;

/// The order in which one epoch visits a data set.
///
/// A bijection of `0..length`, computed for one place at a time, so that a data set of any size costs no memory
/// and any rank can ask for any place.
#[derive(Debug, Clone)]
pub struct Permutation {
    length: u64,
    half_bits: u32,
    keys: [u64; NUM_ROUNDS],
}

impl Permutation {
    /// The order of epoch `epoch` for a data set of `length` items under `seed`.
    #[must_use]
    pub fn new(seed: u64, epoch: u64, length: u64) -> Self {
        let mut random = Philox::new(seed, Stream::Permutation, epoch);
        // Two halves of equal width hold every place; walking skips the fewer than 3/4 that lie outside.
        let bits = u64::BITS - length.saturating_sub(1).leading_zeros();
        Self { length, half_bits: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| random.next_u64()) }
    }

    /// The item at `place` of this epoch.
    ///
    /// # Panics
    /// When `place` is not below the length.
    #[must_use]
    pub fn at(&self, place: u64) -> u64 {
        assert!(place < self.length, "place {place} of a permutation of {} items", self.length);
        let mut item = self.scramble(place);
        while item >= self.length {
            item = self.scramble(item);
        }
        item
    }

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
    fn every_item_is_visited_once() {
        for length in [1, 2, 3, 5, 64, 100, 1000, 60_000] {
            let order = Permutation::new(11, 2, length);
            let mut seen: Vec<u64> = (0..length).map(|place| order.at(place)).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..length), "length {length}");
        }
    }

    #[test]
    fn epochs_and_seeds_have_different_orders() {
        let order = |seed, epoch| {
            let order = Permutation::new(seed, epoch, 1000);
            (0..1000).map(|place| order.at(place)).collect::<Vec<_>>()
        };
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
    }

    #[test]
    fn neighbours_are_spread() {
        let order = Permutation::new(5, 0, 60_000);
        let mean = (1..60_000).map(|place| order.at(place).abs_diff(order.at(place - 1))).sum::<u64>() / 59_999;
        // Two independent uniform places lie a third of the length apart on average.
        assert!((19_000..21_000).contains(&mean), "{mean}");
    }
}
