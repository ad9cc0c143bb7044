//! The division of a global batch over ranks and passes.
//!
//! The trainer, the launcher and the plan of a run all take the rule from here.

use serde::Serialize;

/// A global batch divided over ranks and passes.
///
/// The global batch is fixed by the configuration. When the number of ranks changes, the number of passes changes, and
/// every step still sees the same samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BatchDivision {
    /// The number of ranks.
    #[serde(rename = "world")]
    pub world_size: u64,
    /// The number of samples in a step, over all ranks.
    pub global_batch: u64,
    /// The number of samples in one pass through the network on one rank.
    pub microbatch: u64,
    /// The number of passes in a step on one rank (gradient accumulation).
    pub accumulation: u64,
}

/// The error for a global batch that cannot be divided over the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{global_batch} samples in passes of {microbatch} cannot be divided over {world_size} ranks")]
pub struct Indivisible {
    /// The number of samples in a step, over all ranks.
    pub global_batch: u64,
    /// The largest number of samples in one pass.
    pub microbatch: u64,
    /// The number of ranks.
    pub world_size: u64,
}

impl BatchDivision {
    /// Divides `global_batch` over `world_size` ranks in passes of `microbatch` samples. If a rank's share is smaller
    /// than `microbatch`, the rank processes its share in one pass.
    ///
    /// # Errors
    /// If the batch does not divide into equal shares of whole passes. [`world_sizes`] lists the numbers of ranks that
    /// work.
    pub fn new(global_batch: u64, microbatch: u64, world_size: u64) -> Result<Self, Indivisible> {
        let indivisible = Indivisible { global_batch, microbatch, world_size };
        if global_batch == 0 || microbatch == 0 || world_size == 0 || !global_batch.is_multiple_of(world_size) {
            return Err(indivisible);
        }
        let share = global_batch / world_size;
        let microbatch = microbatch.min(share);
        if !share.is_multiple_of(microbatch) {
            return Err(indivisible);
        }
        Ok(Self { world_size, global_batch, microbatch, accumulation: share / microbatch })
    }

    /// Divides `global_batch` with the largest microbatch up to `limit` that divides a rank's share. Returns `None` if
    /// the number of ranks does not divide the batch, or if `limit` is 0.
    #[must_use]
    pub fn with_largest_microbatch(limit: u64, global_batch: u64, world_size: u64) -> Option<Self> {
        if global_batch == 0 || world_size == 0 || !global_batch.is_multiple_of(world_size) {
            return None;
        }
        let share = global_batch / world_size;
        // Divisors come in pairs around the square root, so that this is fast for a batch of any size.
        let pairs = (1..).take_while(|small| *small <= share / small).filter(|small| share.is_multiple_of(*small));
        let divisors = pairs.flat_map(|small| [small, share / small]);
        let microbatch = divisors.filter(|divisor| *divisor <= limit).max()?;
        Some(Self { world_size, global_batch, microbatch, accumulation: share / microbatch })
    }

    /// Returns the number of samples in a step on one rank.
    #[must_use]
    pub fn share(&self) -> u64 {
        self.microbatch * self.accumulation
    }

    /// Returns the global sample indices of every pass of `rank`, one item for each pass, for the steps
    /// `first_step..last_step`.
    pub fn passes(self, rank: u64, first_step: u64, last_step: u64) -> impl Iterator<Item = Vec<u64>> + Send + 'static {
        (first_step..last_step).flat_map(move |step| (0..self.accumulation).map(move |pass| (step, pass))).map(
            move |(step, pass)| {
                let first = step * self.global_batch + rank * self.share() + pass * self.microbatch;
                (first..first + self.microbatch).collect()
            },
        )
    }
}

/// Returns the numbers of ranks up to `limit` over which the batch divides, in ascending order.
#[must_use]
pub fn world_sizes(global_batch: u64, microbatch: u64, limit: u64) -> Vec<u64> {
    candidates(global_batch, limit)
        .filter(|&world_size| BatchDivision::new(global_batch, microbatch, world_size).is_ok())
        .collect()
}

/// Returns the largest number of ranks up to `limit` over which the batch divides.
#[must_use]
pub fn largest_world_size(global_batch: u64, microbatch: u64, limit: u64) -> Option<u64> {
    candidates(global_batch, limit)
        .rev()
        .find(|&world_size| BatchDivision::new(global_batch, microbatch, world_size).is_ok())
}

/// The numbers of ranks that leave each rank at least one sample.
fn candidates(global_batch: u64, limit: u64) -> std::ops::RangeInclusive<u64> {
    1..=global_batch.min(limit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_number_of_ranks_sees_the_same_samples() {
        for world_size in world_sizes(24, 6, u64::MAX) {
            let division = BatchDivision::new(24, 6, world_size).expect("listed");
            let mut seen: Vec<u64> = (0..world_size).flat_map(|rank| division.passes(rank, 3, 5).flatten()).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(72..120), "{world_size} ranks");
        }
    }

    #[test]
    fn known_batches_have_known_world_sizes() {
        assert_eq!(world_sizes(12, 4, 100), [1, 3, 4, 6, 12]);
        assert_eq!(world_sizes(12, 4, 5), [1, 3, 4]);
        let error = BatchDivision::new(12, 4, 5).expect_err("5 does not divide 12");
        assert_eq!(error.to_string(), "12 samples in passes of 4 cannot be divided over 5 ranks");
        assert!(BatchDivision::new(12, 4, 2).is_err());
        // ImageNet 256: 256 samples, 8 hosts of 8 GPUs; one host is lost.
        assert_eq!(largest_world_size(256, 4, 64), Some(64));
        assert_eq!(largest_world_size(256, 4, 56), Some(32));
        assert_eq!(largest_world_size(7, 2, 6), None);
        assert_eq!(largest_world_size(0, 4, 8), None);
        assert_eq!(largest_world_size(8, 0, 8), None);
        assert_eq!(largest_world_size(8, 4, 0), None);
    }

    #[test]
    fn the_largest_microbatch_divides_the_share() {
        for world_size in 1..30_u64 {
            for global_batch in 0..60_u64 {
                for limit in 0..30 {
                    let divides = |microbatch: &u64| global_batch.is_multiple_of(world_size * microbatch);
                    let expected = (1..=limit.min(global_batch)).rev().find(divides);
                    let found = BatchDivision::with_largest_microbatch(limit, global_batch, world_size);
                    assert_eq!(found.map(|batch| batch.microbatch), expected, "{limit} {global_batch} {world_size}");
                    assert!(found.is_none_or(|batch| batch.world_size * batch.share() == global_batch));
                }
            }
        }
        let large = BatchDivision::with_largest_microbatch(96, 1 << 40, 8);
        assert_eq!(large.map(|batch| batch.microbatch), Some(64));
    }

    proptest! {
        /// The passes of all ranks add up to the batch, and no pass is larger than the microbatch.
        #[test]
        fn passes_add_up_to_the_batch(batch in 1_u64..3000, microbatch in 1_u64..100, world_size in 1_u64..100) {
            let in_whole_passes = batch % (world_size * microbatch) == 0;
            // A single pass may be smaller.
            let in_one_pass = batch % world_size == 0 && batch / world_size <= microbatch;
            let division = BatchDivision::new(batch, microbatch, world_size);
            prop_assert_eq!(division.is_ok(), in_one_pass || in_whole_passes);
            if let Ok(division) = division {
                prop_assert!(division.microbatch <= microbatch);
                prop_assert_eq!(division.share() * world_size, batch);
            }
        }

        #[test]
        fn the_largest_world_size_is_listed_last(batch in 0_u64..3000, microbatch in 0_u64..100, limit in 0_u64..200) {
            let all = world_sizes(batch, microbatch, limit);
            prop_assert_eq!(largest_world_size(batch, microbatch, limit), all.last().copied());
            prop_assert!(all.is_sorted() && all.iter().all(|&world_size| world_size <= limit));
        }
    }
}
