//! What goes into a group's life and what comes out of it.

use admiral_contract::{Reading, Timeouts};

use crate::decide::cause::Incident;
use crate::decide::end::End;

/// What happens to a group.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The agent of this rank is there.
    Hello {
        /// Which.
        rank: usize,
    },
    /// It has nothing to say.
    Alive {
        /// Which.
        rank: usize,
    },
    /// It says where its rank stands.
    Beat {
        /// Which.
        rank: usize,
        /// The ledger.
        reading: Reading,
        /// The state of the process, as in [`RankView::state`].
        state: Option<char>,
    },
    /// A rank has ended; its agent stays.
    Ended {
        /// Which.
        rank: usize,
        /// How.
        end: End,
        /// The ledger at the end.
        reading: Option<Reading>,
    },
    /// The stack that was asked for has come.
    StackTaken {
        /// Of which rank.
        rank: usize,
    },
    /// The connection to an agent is closed.
    Disconnected {
        /// Which.
        rank: usize,
    },
    /// A rank that was killed or had ended: nothing that it started is left, or so many processes that cannot be ended.
    Gone {
        /// Which.
        rank: usize,
        /// Processes that are still there.
        left: usize,
    },
    /// The daemon of `mpirun` on the host of this rank is gone.
    DaemonGone {
        /// Whose agent says so.
        rank: usize,
    },
    /// `mpirun` has ended.
    MpirunEnded,
    /// The user or the scheduler wants the run to stop.
    StopRequested {
        /// And not for the first time: without a checkpoint, at once.
        repeated: bool,
    },
    /// Time goes by; at least twice a second.
    Tick,
}

/// What is to be done for a group.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// All agents are there: each may start its rank. Comes once.
    StartAll,
    /// Tell every rank to publish a checkpoint and leave.
    SignalAll,
    /// Ask what the threads of this rank do.
    TakeStack(usize),
    /// End every rank by force, now and whenever another agent says hello. May come again.
    KillAll,
    /// Tell every agent to leave.
    LeaveAll,
    /// End `mpirun` by force.
    KillMpirun,
    /// It is over. Comes once; nothing comes after it.
    Finished(Outcome),
}

/// What became of a group.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Every rank has exited with 0.
    AllEnded,
    /// It failed.
    Incident {
        /// What to decide upon.
        incident: Incident,
        /// For people.
        sentence: String,
    },
    /// It was asked to stop, before or after it had failed: no other group is to be started.
    Stopped {
        /// 75 with a checkpoint, or before the first step; else the code of the rank that failed meanwhile, or 1.
        code: u8,
        /// For people.
        sentence: String,
    },
}

/// What a group is held to.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// Its timeouts.
    pub timeouts: Timeouts,
    /// How long a stop may take before it is one by force, in seconds.
    pub stop_grace_seconds: f64,
    /// The furthest step of the groups before this one, for [`Incident::steps_gained`].
    pub reached_before: u64,
}
