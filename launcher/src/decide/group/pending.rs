//! Failures, stops and shutdowns that are in progress.

use std::collections::BTreeSet;

use super::event::Outcome;
use crate::decide::cause::Cause;

/// A failure that may be the cause of the group's end.
#[derive(Debug, Clone)]
pub(super) struct FailureCandidate {
    pub(super) rank: Option<usize>,
    pub(super) hosts: Vec<String>,
    pub(super) cause: Cause,
    pub(super) sentence: String,
    /// The likelihood that the failure is a consequence of another one; 0 if it cannot be.
    pub(super) consequence: u8,
}

/// A failure that a more likely cause may still replace.
#[derive(Debug, Clone)]
pub(super) struct PendingFailure {
    pub(super) failure: FailureCandidate,
    /// The time at which the failure counts.
    pub(super) settles_at: f64,
}

/// A stop in progress.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    /// Whether the stop was requested. If not, a rank started it by exiting with 75.
    pub(super) is_requested: bool,
    /// The time at which ranks are killed.
    pub(super) deadline: f64,
}

/// Stacks that were requested before the shutdown.
#[derive(Debug, Clone)]
pub(super) struct PendingStacks {
    /// The ranks that have not sent theirs.
    pub(super) ranks: BTreeSet<usize>,
    pub(super) deadline: f64,
    /// The outcome of the group after that.
    pub(super) outcome: Outcome,
}

/// The shutdown of a group.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) since: f64,
    pub(super) outcome: Outcome,
    /// The time at which all agents were dismissed.
    pub(super) dismissed_at: Option<f64>,
    pub(super) mpirun_killed: bool,
}
