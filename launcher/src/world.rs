//! Which numbers of ranks can share a global batch: the rule of the trainer's `train::BatchPlan`, which has the last
//! word.

/// Whether `world` ranks can share `global_batch` samples in passes of `microbatch`: every rank takes as many, in whole
/// passes, or in one smaller pass.
#[must_use]
pub fn fits(global_batch: u64, microbatch: u64, world: usize) -> bool {
    let world = world as u64;
    if global_batch == 0 || microbatch == 0 || world == 0 || !global_batch.is_multiple_of(world) {
        return false;
    }
    let share = global_batch / world;
    share <= microbatch || share.is_multiple_of(microbatch)
}

/// The largest number of ranks up to `available` that can share it.
#[must_use]
pub fn largest_that_fits(global_batch: u64, microbatch: u64, available: usize) -> Option<usize> {
    (1..=at_most(global_batch, available)).rev().find(|&world| fits(global_batch, microbatch, world))
}

/// Every number of ranks up to `up_to` that can share it, ascending.
#[must_use]
pub fn all_that_fit(global_batch: u64, microbatch: u64, up_to: usize) -> Vec<usize> {
    (1..=at_most(global_batch, up_to)).filter(|&world| fits(global_batch, microbatch, world)).collect()
}

/// No rank goes without a sample.
fn at_most(global_batch: u64, ranks: usize) -> usize {
    usize::try_from(global_batch).map_or(ranks, |batch| batch.min(ranks))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn worlds_of_known_batches() {
        // Those of the trainer's own test.
        assert_eq!(all_that_fit(12, 4, 100), [1, 3, 4, 6, 12]);
        assert_eq!(all_that_fit(12, 4, 5), [1, 3, 4]);
        // ImageNet 256: 256 samples, 8 hosts of 8; one is lost.
        assert_eq!(largest_that_fits(256, 4, 64), Some(64));
        assert_eq!(largest_that_fits(256, 4, 56), Some(32));
        assert_eq!(largest_that_fits(7, 2, 6), None);
        assert_eq!(largest_that_fits(0, 4, 8), None);
        assert_eq!(largest_that_fits(8, 0, 8), None);
        assert_eq!(largest_that_fits(8, 4, 0), None);
    }

    proptest! {
        /// The promise behind it: passes of one size over all ranks add up to the batch, and no pass is too large.
        #[test]
        fn what_fits_can_be_divided(batch in 1_u64..3000, microbatch in 1_u64..100, world in 1_usize..100) {
            let passes = |size: u64| batch % (world as u64 * size) == 0;
            // Only the last pass's size is free, and only where it is the one.
            let one = batch % world as u64 == 0 && batch / world as u64 <= microbatch;
            prop_assert_eq!(fits(batch, microbatch, world), one || passes(microbatch));
        }

        #[test]
        fn the_largest_is_the_last_of_all(batch in 0_u64..3000, microbatch in 0_u64..100, available in 0_usize..200) {
            let all = all_that_fit(batch, microbatch, available);
            prop_assert_eq!(largest_that_fits(batch, microbatch, available), all.last().copied());
            prop_assert!(all.is_sorted() && all.iter().all(|&world| world <= available));
        }
    }
}
