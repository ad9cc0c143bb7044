//! The inputs and outputs of a group.

use admiral_contract::{Reading, Timeouts};

use crate::decide::cause::Incident;
use crate::decide::end::End;
use crate::job::JobKind;

/// An input of a group.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The agent of this rank has connected.
    Hello {
        /// The rank.
        rank: usize,
    },
    /// The agent sent a message without news.
    Alive {
        /// The rank.
        rank: usize,
    },
    /// The agent sent its rank's state.
    Beat {
        /// The rank.
        rank: usize,
        /// The rank's ledger.
        reading: Reading,
        /// The state of its process, as in [`RankView::state`](crate::decide::RankView::state).
        state: Option<char>,
    },
    /// A rank has ended. Its agent stays.
    Ended {
        /// The rank.
        rank: usize,
        /// The end.
        end: End,
        /// Its ledger at the end.
        reading: Option<Reading>,
    },
    /// A requested stack has arrived.
    StackTaken {
        /// The rank.
        rank: usize,
    },
    /// The connection to an agent is closed.
    Disconnected {
        /// The rank.
        rank: usize,
    },
    /// A killed or ended rank is gone, except for `left` of its processes.
    Gone {
        /// The rank.
        rank: usize,
        /// The number of processes that could not be ended.
        left: usize,
    },
    /// The daemon of `mpirun` on the host of this rank is gone.
    DaemonGone {
        /// The rank whose agent noticed it.
        rank: usize,
    },
    /// `mpirun` has ended.
    MpirunEnded,
    /// The user or the scheduler asks the run to stop.
    StopRequested {
        /// Whether this is a repeated request. The ranks are then ended at once, and may lose work.
        repeated: bool,
    },
    /// Time has passed. Comes at least twice a second.
    Tick,
}

/// An output of a group: what the caller has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// All agents are connected: start every rank. Comes once.
    StartAll,
    /// Tell every rank to keep its work and exit: after a checkpoint, if it trains.
    SignalAll,
    /// Ask for the stacks of this rank's threads.
    TakeStack(usize),
    /// Kill every rank, now and whenever another agent connects. May come several times.
    KillAll,
    /// Dismiss every agent.
    LeaveAll,
    /// Kill `mpirun`.
    KillMpirun,
    /// The group is over. Comes once, as the last output.
    Finished(Outcome),
}

/// The result of a group.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Every rank exited with 0.
    AllEnded,
    /// The group failed.
    Incident {
        /// The failure.
        incident: Incident,
        /// Its description, for people.
        sentence: String,
    },
    /// The run was asked to stop, before or after a failure. No other group is started.
    Stopped {
        /// 75 if nothing was lost; else the code of the rank that failed meanwhile, or 1.
        code: u8,
        /// The description, for people.
        sentence: String,
    },
}

/// The limits of a group.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// What the ranks do.
    pub kind: JobKind,
    /// Its timeouts.
    pub timeouts: Timeouts,
    /// The time that a stop may take until ranks are killed, in seconds.
    pub stop_grace_seconds: f64,
    /// The furthest count of the earlier groups, for [`Incident::steps_gained`].
    pub reached_before: u64,
}
