//! The known state of a rank.

use std::time::Duration;

use admiral_contract::{Phase, Reading, Timeouts};

/// The known state of a rank that has not ended.
#[derive(Debug, Clone, PartialEq)]
pub struct RankView {
    /// The rank.
    pub rank: usize,
    /// Its host.
    pub host: String,
    /// Its GPU on the host.
    pub gpu: Option<usize>,
    /// Its last ledger; `None` until its agent has connected.
    pub reading: Option<Reading>,
    /// The state of its process as in `/proc/PID/stat`: R, S, D, T, Z...
    pub state: Option<char>,
    /// How long its agent has been silent, in seconds; since the start of the group if it never connected.
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

    /// Returns whether the rank waits for others. The end of the run counts as a collective, because MPI releases no
    /// rank before all are there.
    pub(super) fn waits(&self) -> bool {
        self.reading.phase.is_collective() || self.reading.phase == Phase::End
    }

    /// Returns the number of collectives that the rank has entered.
    pub(super) fn entered(&self) -> u64 {
        if self.reading.phase == Phase::End { u64::MAX } else { self.reading.collectives }
    }

    /// Returns whether the system keeps its process from running.
    pub(super) fn is_halted(&self) -> bool {
        matches!(self.view.state, Some('T' | 't' | 'Z' | 'X'))
    }

    /// Returns how long the rank may be busy with one thing, in seconds.
    pub(super) fn limit(&self, timeouts: &Timeouts) -> f64 {
        let gets_ready = self.reading.phase == Phase::Start && !self.is_halted();
        let limit: Duration = if gets_ready { timeouts.start } else { timeouts.stall };
        limit.as_secs_f64()
    }

    /// Returns whether the rank is busy with one thing for at least `part` of its limit.
    pub(super) fn exceeds(&self, part: f64, timeouts: &Timeouts) -> bool {
        self.reading.phase_seconds >= part * self.limit(timeouts)
    }
}
