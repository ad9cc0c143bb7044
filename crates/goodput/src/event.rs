//! The events from which the ledger is made.

use serde::{Deserialize, Serialize};

/// Something that happened at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The time in seconds since 1970-01-01 in UTC.
    pub time: f64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A launcher has started.
    LaunchBegins,
    /// The launcher examines the hosts.
    PreflightBegins,
    /// The hosts are examined.
    PreflightEnds,
    /// The launcher starts the ranks of an attempt.
    AttemptBegins,
    /// The launcher has found that the attempt failed, and ends its ranks.
    FailureFound,
    /// The attempt has ended, as the launcher finds.
    AttemptEnds {
        /// Whether it failed.
        has_failed: bool,
    },
    /// The launcher ends.
    LaunchEnds {
        /// Whether it was asked to stop.
        is_preempted: bool,
    },
    /// Rank 0 has started.
    RankBegins {
        /// The number of ranks.
        world: u64,
        /// The number of ranks with a GPU.
        gpus: u64,
    },
    /// A stage of the start is done.
    StageEnds {
        /// The stage.
        stage: Stage,
        /// The step that the attempt continues from, if the stage tells it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<u64>,
    },
    /// Steps are done.
    StepsEnd {
        /// The number of steps of the run that are done.
        step: u64,
        /// The seconds since the last event that were no steps.
        seconds: IntervalSeconds,
    },
    /// A checkpoint is published.
    Saved {
        /// The step of the checkpoint.
        step: u64,
    },
    /// Rank 0 ends in order.
    RankEnds {
        /// Whether it was asked to stop.
        is_preempted: bool,
    },
}

/// A stage of the start of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The images are open.
    Data,
    /// The network is built.
    Program,
    /// The checkpoint is restored, or there is none.
    Restore,
    /// The first step is done.
    FirstStep,
}

/// The seconds of an interval of steps in which no step was computed.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IntervalSeconds {
    /// Waiting for the loader.
    pub data: f64,
    /// Waiting in exchanges for ranks that begin them later.
    pub straggler: f64,
    /// Exchanges with other ranks, after all have begun them.
    pub exchange: f64,
    /// The part of saves that training waits for.
    pub checkpoint: f64,
    /// Sample grids.
    pub sampling: f64,
    /// Validation and evaluation.
    pub evaluation: f64,
}
