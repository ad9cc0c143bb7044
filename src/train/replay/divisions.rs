//! How the steps of a replay were divided over the ranks of the run. The number of ranks may change at each start of a run.

use admiral_checkpoint::{Catalog, Manifest};
use admiral_contract::BatchDivision;
use admiral_storage::StoreOptions;

use crate::train::black_box::Capsule;

/// The divisions of the samples of a range of steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Divisions {
    /// Each with the step before which it ends, in order.
    earlier: Vec<(u64, BatchDivision)>,
    /// The division of the steps after those.
    last: BatchDivision,
}

impl Divisions {
    /// Returns the divisions of the steps from `first` on, up to that of the capsule. The attempt that wrote the capsule took
    /// the steps after the checkpoint that the capsule names. For earlier steps, the checkpoints of the run at `location`
    /// tell it: a checkpoint was written by the ranks that took the steps before it.
    pub(super) fn find(
        capsule: &Capsule,
        last: BatchDivision,
        first: u64,
        location: Option<&str>,
        stores: &StoreOptions,
    ) -> Self {
        let mut earlier = Vec::new();
        let end = capsule.first_step();
        let Some(location) = location.filter(|_| first < end) else { return Self { earlier, last } };
        let catalog = Catalog::open(location, stores);
        let steps = catalog.and_then(|catalog| Ok((catalog.steps()?, catalog)));
        let (steps, catalog) = match steps {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(
                    "the number of ranks before step {end} is not known, and taken for that after it: {error}"
                );
                return Self { earlier, last };
            }
        };
        for step in steps.into_iter().filter(|step| (first + 1..=end).contains(step)) {
            let division = catalog.checkpoint(step).map_err(|error| error.to_string());
            let division = division.and_then(|checkpoint| division_of(checkpoint.manifest(), last.global_batch));
            match division {
                Ok(division) => earlier.push((step, division)),
                Err(reason) => tracing::warn!(
                    "the number of ranks before step {step} is not known, and taken for that after it: {reason}"
                ),
            }
        }
        Self { earlier, last }
    }

    /// Returns the division of a step.
    pub(super) fn at(&self, step: u64) -> BatchDivision {
        let found = self.earlier.iter().find(|(end, _)| step < *end);
        found.map_or(self.last, |&(_, division)| division)
    }
}

/// Returns the division of the steps before a checkpoint.
fn division_of(manifest: &Manifest, global_batch: u64) -> Result<BatchDivision, String> {
    let microbatch = manifest.configuration["training"]["microbatch"].as_u64();
    let microbatch = microbatch.ok_or("its configuration has no training.microbatch")?;
    BatchDivision::new(global_batch, microbatch, manifest.world_size as u64).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_the_division_of_the_checkpoint_after_it() {
        let of =
            |world_size| BatchDivision { world_size, global_batch: 8, microbatch: 1, accumulation: 8 / world_size };
        let divisions = Divisions { earlier: vec![(10, of(1)), (20, of(4))], last: of(2) };
        let worlds = [0, 9, 10, 19, 20, 25].map(|step| divisions.at(step).world_size);
        assert_eq!(worlds, [1, 1, 4, 4, 2, 2]);
    }
}
