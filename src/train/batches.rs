//! How the samples of a step are shared by ranks and microbatches. The global batch is the contract: it stays the
//! same when the world changes.

use admiral_config::Invalid;

/// Which samples this rank takes of each step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchPlan {
    /// Samples of a step over all ranks.
    pub global_batch: u64,
    /// Samples of one pass through the network on one rank.
    pub microbatch: u64,
    /// Passes a step on one rank.
    pub accumulation: u64,
    /// This rank.
    pub rank: u64,
}

impl BatchPlan {
    /// Divides `global_batch` over `world_size` ranks in passes of at most `microbatch` samples: exactly `microbatch`
    /// where a rank's share is larger, the whole share where it is not.
    ///
    /// # Errors
    /// Where that does not come out even, with the numbers of ranks for which it does.
    pub fn new(global_batch: u64, microbatch: u64, world_size: u64, rank: u64) -> Result<Self, Invalid> {
        match divide(global_batch, microbatch, world_size) {
            Some((microbatch, accumulation)) => Ok(Self { global_batch, microbatch, accumulation, rank }),
            None => Err(Invalid::new(
                "training.global_batch",
                format!(
                    "{global_batch} samples in passes of {microbatch} cannot be divided over {world_size} ranks; \
                     these numbers of ranks can: {:?}",
                    worlds(global_batch, microbatch)
                ),
            )),
        }
    }

    /// The passes of every step from `first_step` to before `last_step`, in order: what a loader is to read.
    pub fn passes(self, first_step: u64, last_step: u64) -> impl Iterator<Item = Vec<u64>> + Send + 'static {
        (first_step..last_step)
            .flat_map(move |step| (0..self.accumulation).map(move |pass| (step, pass)).collect::<Vec<_>>())
            .map(move |(step, pass)| {
                let share = self.microbatch * self.accumulation;
                let first = step * self.global_batch + self.rank * share + pass * self.microbatch;
                (first..first + self.microbatch).collect()
            })
    }
}

fn divide(global_batch: u64, microbatch: u64, world_size: u64) -> Option<(u64, u64)> {
    if global_batch == 0 || microbatch == 0 || world_size == 0 || !global_batch.is_multiple_of(world_size) {
        return None;
    }
    let share = global_batch / world_size;
    if share <= microbatch {
        Some((share, 1))
    } else {
        share.is_multiple_of(microbatch).then_some((microbatch, share / microbatch))
    }
}

/// The numbers of ranks that can share a global batch, ascending.
#[must_use]
pub fn worlds(global_batch: u64, microbatch: u64) -> Vec<u64> {
    (1..=global_batch).filter(|&world| divide(global_batch, microbatch, world).is_some()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_world_sees_the_same_samples() {
        for world in worlds(24, 6) {
            let mut seen: Vec<u64> = (0..world)
                .flat_map(|rank| BatchPlan::new(24, 6, world, rank).unwrap().passes(3, 5).flatten().collect::<Vec<_>>())
                .collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(72..120), "world {world}");
        }
    }

    #[test]
    fn what_cannot_be_divided_is_refused_with_what_can() {
        assert_eq!(worlds(12, 4), [1, 3, 4, 6, 12]);
        let message = BatchPlan::new(12, 4, 5, 0).unwrap_err().message;
        assert!(message.contains("5 ranks") && message.contains("[1, 3, 4, 6, 12]"), "{message}");
        assert!(BatchPlan::new(12, 4, 2, 0).is_err());
    }
}
