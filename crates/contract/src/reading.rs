//! A snapshot of a rank's progress.

use serde::{Deserialize, Serialize};

/// The work that a rank is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u64)]
pub enum Phase {
    /// Starting: reading the configuration, the file names of the data set, a checkpoint.
    #[default]
    Start = 0,
    /// Waiting for the data loader.
    Data = 1,
    /// The forward pass.
    Forward = 2,
    /// The backward pass.
    Backward = 3,
    /// The all-reduce of a bucket of gradients; [`Reading::bucket`] is its number.
    Reduce = 4,
    /// Another collective operation.
    Exchange = 5,
    /// The optimizer.
    Optimizer = 6,
    /// The part of a save that the training loop waits for; in a sampling job, storing images.
    Checkpoint = 7,
    /// Drawing the sample grid; in a sampling job, a batch of images.
    Sample = 8,
    /// Logging and validation.
    Log = 9,
    /// Exiting.
    End = 10,
}

impl Phase {
    pub(crate) const ALL: [Self; 11] = [
        Self::Start,
        Self::Data,
        Self::Forward,
        Self::Backward,
        Self::Reduce,
        Self::Exchange,
        Self::Optimizer,
        Self::Checkpoint,
        Self::Sample,
        Self::Log,
        Self::End,
    ];

    /// Returns the phase as a phrase for messages: "it has been ... for 94 s".
    #[must_use]
    pub fn doing(self) -> &'static str {
        match self {
            Self::Start => "getting ready",
            Self::Data => "reading data",
            Self::Forward => "in the forward pass",
            Self::Backward => "in the backward pass",
            Self::Reduce => "summing gradients",
            Self::Exchange => "exchanging with the other ranks",
            Self::Optimizer => "in the optimizer",
            Self::Checkpoint => "saving a checkpoint",
            Self::Sample => "drawing samples",
            Self::Log => "logging",
            Self::End => "leaving",
        }
    }

    /// Returns whether the rank waits for other ranks in this phase.
    #[must_use]
    pub fn is_collective(self) -> bool {
        matches!(self, Self::Reduce | Self::Exchange)
    }
}

/// A snapshot of a rank's ledger. Times are in seconds.
///
/// A rank that draws images for a sampling job counts images where a training rank counts steps, and only those of its
/// own share: all ranks together have finished the sum of their counts. The launcher knows which job it has started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The process ID of the rank; 0 until it has opened the ledger.
    pub pid: u64,
    /// The number of the current step, from 1; 0 before the first step. In a sampling job, the number of images of the
    /// rank's share that are finished, with those that were there at its start.
    pub step: u64,
    /// The number of the last step of the run; 0 until it is known. In a sampling job, the number of images of the rank's
    /// share.
    pub last_step: u64,
    /// The current phase.
    pub phase: Phase,
    /// The number of the bucket in [`Phase::Reduce`], else of the pass within the step, from 0.
    pub bucket: u64,
    /// The time since the current phase began.
    pub phase_seconds: f64,
    /// The number of collective operations that the rank has entered since its start, including the current one. All
    /// ranks enter the same operations in the same order, so the others wait for the rank with the smallest count.
    pub collectives: u64,
    /// The number of phase changes since the rank's start.
    pub beats: u64,
    /// The duration of the last complete step, or batch of images.
    pub step_seconds: f64,
    /// The part of `step_seconds` spent waiting for data.
    pub data_seconds: f64,
    /// The part of `step_seconds` spent in collective operations.
    pub wait_seconds: f64,
    /// The step of the newest checkpoint that this attempt has published or resumed from.
    pub checkpoint_step: u64,
    /// The number of samples in a step, over all ranks; 0 until it is known.
    pub global_batch: u64,
    /// The attempt's ID in `owner.json`; empty until the rank has taken the lease on the checkpoint folder.
    pub attempt_id: String,
    /// What the rank waits for in the current phase, such as an image that takes long to read; empty if that is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub awaited: String,
}
