//! The pass through the network that is replayed.

use crate::train::objective::Microbatch;

/// A pass of a rank through the network.
#[derive(Debug, Clone, Default)]
pub(super) struct Pass {
    /// The rank.
    pub(super) rank: usize,
    /// The number of the pass in the step of this rank.
    pub(super) number: usize,
    /// The index of each sample in the run.
    pub(super) indices: Vec<u64>,
    /// The timestep of each sample.
    pub(super) timesteps: Vec<i64>,
}

impl Pass {
    /// The pass `number` of `rank`, with the samples of `batch`.
    pub(super) fn of(rank: usize, number: usize, batch: &Microbatch) -> Self {
        Self { rank, number, indices: batch.indices.clone(), timesteps: batch.timesteps.clone() }
    }
}
