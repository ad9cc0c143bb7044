//! The events of a saver, and the reports that its ranks exchange.

use crate::error::Error;

/// The state of the current save on one rank, or the sum over all ranks. Each field counts ranks.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Report {
    /// Ranks that have finished the current phase.
    pub finished: f32,
    /// Ranks that have failed in the current phase, or that have lost the lease to another run.
    pub failed: f32,
    /// Ranks whose buffers are still read by an upload.
    pub held: f32,
    /// Ranks whose buffers are read by an upload that should have been aborted by now.
    pub stuck: f32,
}

/// The outcome of a save or of one of its phases.
#[derive(Debug, Clone, PartialEq)]
pub enum SaveEvent {
    /// A checkpoint is published.
    Published {
        /// Its step.
        step: u64,
        /// The seconds from the copy to the publication.
        seconds: f64,
        /// The size of the tensors in bytes.
        bytes: u64,
    },
    /// Older checkpoints are deleted.
    Deleted {
        /// Their steps.
        steps: Vec<u64>,
    },
    /// A save failed, or the checkpoint that it published was found damaged. Training continues.
    Failed {
        /// Its step.
        step: u64,
        /// The cause.
        error: Error,
    },
    /// A checkpoint is published, but older ones could not be deleted.
    NotTidied {
        /// Its step.
        step: u64,
        /// The cause.
        error: Error,
    },
}
