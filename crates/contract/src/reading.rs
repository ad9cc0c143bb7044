//! What a ledger says of a rank.

use serde::{Deserialize, Serialize};

/// What a rank is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u64)]
pub enum Phase {
    /// Getting ready: reading the configuration, the data's names, a checkpoint.
    #[default]
    Start = 0,
    /// Waiting for the loader.
    Data = 1,
    /// The network's forward pass.
    Forward = 2,
    /// The backward pass.
    Backward = 3,
    /// Summing a bucket of gradients over the ranks; [`Reading::bucket`] says which.
    Reduce = 4,
    /// Another exchange with all ranks.
    Exchange = 5,
    /// The optimizer's pass.
    Optimizer = 6,
    /// The part of a checkpoint that the loop waits for.
    Checkpoint = 7,
    /// Drawing samples for the grid.
    Sample = 8,
    /// Logging and validation.
    Log = 9,
    /// Leaving.
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

    /// What the rank has been doing, for a sentence: "it has been ... for 94 s".
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

    /// Whether it waits for other ranks there.
    #[must_use]
    pub fn is_collective(self) -> bool {
        matches!(self, Self::Reduce | Self::Exchange)
    }
}

/// Where a rank stood when its ledger was read. Times are in seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The rank's process; 0 until it has opened the ledger.
    pub pid: u64,
    /// The step under way, from 1; 0 before the first.
    pub step: u64,
    /// The step of the run's end; 0 until it is known.
    pub last_step: u64,
    /// What it does.
    pub phase: Phase,
    /// In [`Phase::Reduce`] the bucket, from 0; else the pass of the step.
    pub bucket: u64,
    /// For how long it has done that.
    pub phase_seconds: f64,
    /// Exchanges with other ranks that it has entered since its start, that of now among them. All ranks enter the same
    /// ones in the same order: who has entered fewer is waited for.
    pub collectives: u64,
    /// Changes of the phase since its start.
    pub beats: u64,
    /// What the last whole step took.
    pub step_seconds: f64,
    /// Of that, waiting for data.
    pub data_seconds: f64,
    /// Of that, in exchanges with other ranks.
    pub wait_seconds: f64,
    /// The step of the newest checkpoint that this attempt has published or begun from.
    pub checkpoint_step: u64,
    /// The samples of a step, over all ranks; 0 until it is known.
    pub global_batch: u64,
    /// The attempt, as `owner.json` beside the checkpoints names it; empty until the rank has taken the place.
    pub attempt_id: String,
}
