//! Checks and texts that follow from a configuration.

use admiral_contract::{BatchDivision, world_sizes};

use super::error::LaunchError;
use crate::facts::Facts;

/// Returns the timeouts of a run, for people.
pub(super) fn timeouts(facts: &Facts) -> String {
    let times = facts.config.launch.timeouts();
    format!(
        "no progress for {} s is a standstill; hosts have {} s to come up; a host that is silent for {} s is lost; a \
         group is gone after {} s or ended by force; a checkpoint on request has {} s",
        times.stall.as_secs(),
        times.start.as_secs(),
        times.silence.as_secs(),
        times.group_down.as_secs(),
        facts.config.checkpoint.grace_seconds,
    )
}

/// Refuses a number of ranks that cannot share the batch.
///
/// # Errors
/// If they cannot, with the numbers of ranks that can.
pub(super) fn check_world(facts: &Facts, world: usize) -> Result<(), LaunchError> {
    let training = &facts.config.training;
    if BatchDivision::new(training.global_batch, training.microbatch, world as u64).is_ok() {
        return Ok(());
    }
    Err(LaunchError::config(format!(
        "training.global_batch {} in passes of {} cannot be divided over {world} ranks; these numbers of ranks can: \
         {:?}; give one with --np",
        training.global_batch,
        training.microbatch,
        world_sizes(training.global_batch, training.microbatch, world.max(64) as u64),
    )))
}
