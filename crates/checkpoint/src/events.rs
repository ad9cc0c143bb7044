//! What a saver tells of its saves, and ranks tell each other.

use crate::error::Error;

/// How many ranks are done with something, summed over all of them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Report {
    /// Ranks whose job has finished.
    pub finished: f32,
    /// Ranks whose job has failed, or that have lost the place to another run.
    pub failed: f32,
    /// Ranks whose buffers are still read by something that was given up.
    pub held: f32,
    /// Those of them that have been so for longer than taking it back may take.
    pub stuck: f32,
}

/// What has become of a save.
#[derive(Debug, Clone, PartialEq)]
pub enum SaveEvent {
    /// A checkpoint is published.
    Published {
        /// Its step.
        step: u64,
        /// From the copy to the publication.
        seconds: f64,
        /// The bytes of all ranks' shares.
        bytes: u64,
    },
    /// Older checkpoints are deleted.
    Deleted {
        /// Their steps.
        steps: Vec<u64>,
    },
    /// A save came to nothing, or the checkpoint that it published turned out to be damaged; training goes on.
    Failed {
        /// Its step.
        step: u64,
        /// Why.
        error: Error,
    },
    /// A checkpoint is published, and older ones could not be deleted.
    NotTidied {
        /// Its step.
        step: u64,
        /// Why.
        error: Error,
    },
}
