//! The parts of a session that checkpoints save.

use admiral_checkpoint::ImagesRecord;

use crate::diffusion::TimestepSampler;
use crate::run_config::RunConfig;

use super::step::Trainer;

/// The configuration, and everything that training changes: the network, the optimizer state, the timestep sampler.
#[derive(Debug)]
pub struct RunState {
    /// The configuration.
    pub config: RunConfig,
    /// The network and its optimizer.
    pub trainer: Trainer,
    /// The timestep sampler, which may learn from losses.
    pub timestep_sampler: TimestepSampler,
    /// The images for training.
    pub images: ImagesRecord,
}

impl RunState {
    /// Returns the index of the next sample, which is the number of samples seen so far over all ranks.
    #[must_use]
    pub fn next_sample(&self) -> u64 {
        self.trainer.counters.step * self.config.training.global_batch
    }
}
