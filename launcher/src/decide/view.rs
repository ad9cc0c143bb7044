//! What is known of a rank.

use std::time::Duration;

use admiral_contract::{Phase, Reading, Timeouts};

/// What is known of a rank that has not ended.
#[derive(Debug, Clone, PartialEq)]
pub struct RankView {
    /// Its number.
    pub rank: usize,
    /// Where it runs.
    pub host: String,
    /// Its GPU there.
    pub gpu: Option<usize>,
    /// What its agent said last; None before its agent has said hello.
    pub reading: Option<Reading>,
    /// The state of its process, as `/proc/PID/stat` calls it: R, S, D, T, Z...
    pub state: Option<char>,
    /// For how long nothing was heard of its agent; since the start of the group where nothing ever was.
    pub silent_seconds: f64,
}

/// A rank with a ledger.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownRank<'a> {
    pub(super) view: &'a RankView,
    pub(super) reading: &'a Reading,
}

impl<'a> KnownRank<'a> {
    pub(super) fn new(view: &'a RankView) -> Option<Self> {
        Some(Self { view, reading: view.reading.as_ref()? })
    }

    /// Whether it waits for others. The run's end is an exchange as well: MPI lets none go before all are there.
    pub(super) fn waits(&self) -> bool {
        self.reading.phase.is_collective() || self.reading.phase == Phase::End
    }

    /// How far it has come, in exchanges.
    pub(super) fn entered(&self) -> u64 {
        if self.reading.phase == Phase::End { u64::MAX } else { self.reading.collectives }
    }

    /// Whether the system keeps its process from running.
    pub(super) fn halted(&self) -> bool {
        matches!(self.view.state, Some('T' | 't' | 'Z' | 'X'))
    }

    /// How long it may be busy with one thing.
    pub(super) fn limit(&self, timeouts: &Timeouts) -> f64 {
        let gets_ready = self.reading.phase == Phase::Start && !self.halted();
        let limit: Duration = if gets_ready { timeouts.start } else { timeouts.stall };
        limit.as_secs_f64()
    }

    /// Whether it is busy with one thing for `part` of what it may.
    pub(super) fn over(&self, part: f64, timeouts: &Timeouts) -> bool {
        self.reading.phase_seconds >= part * self.limit(timeouts)
    }
}
