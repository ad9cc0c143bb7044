//! What training changes, and what it depends on: the parts of a session that checkpoints save.

use crate::diffusion::TimestepSampler;
use crate::run_config::RunConfig;

use super::step::Trainer;

/// The network and everything that training changes, with the configuration.
#[derive(Debug)]
pub struct RunState {
    /// The configuration.
    pub config: RunConfig,
    /// The network and its optimizer.
    pub trainer: Trainer,
    /// Draws timesteps.
    pub timestep_sampler: TimestepSampler,
}

impl RunState {
    /// The index of the next sample: the number of samples seen so far, over all ranks.
    #[must_use]
    pub fn next_sample(&self) -> u64 {
        self.trainer.counters.step * self.config.training.global_batch
    }
}
