//! `failure.json`: what went wrong, where, what was done about it and what it cost.

use admiral_contract::Reading;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An incident, written down when the group is gone and once more when the run goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Which launch.
    pub launch_id: String,
    /// Its number in this run, from 1.
    pub incident: u64,
    /// The attempt that failed, from 0.
    pub attempt: u64,
    /// When it was found.
    pub detected: Timestamp,
    /// What happened, in one sentence.
    pub verdict: String,
    /// The rank that failed first; none where a host or mpirun did.
    pub rank: Option<usize>,
    /// Its host, or the host to blame.
    pub host: Option<String>,
    /// Its GPU: its rank among those of its host.
    pub gpu: Option<usize>,
    /// What it exited with by itself.
    pub exit_code: Option<u8>,
    /// The signal that killed it, where that was not the launcher's.
    pub signal: Option<String>,
    /// Its last lines of output; where `mpirun` did not bring all ranks up, the first that it said.
    pub last_lines: Vec<String>,
    /// What its threads were doing, where it stood still.
    pub stack: Option<String>,
    /// Where all ranks stood.
    pub ranks: Vec<RankRecord>,
    /// Steps that were done.
    pub step: u64,
    /// Whether all processes are known to be gone.
    pub group: GroupRecord,
    /// What the launcher did.
    pub action: String,
    /// For how long the run had stood still when that was found.
    pub standstill_seconds: f64,
    /// When a drill let the host fall silent.
    pub harmed: Option<Timestamp>,
    /// Steps that are done again; known when the run goes on.
    pub steps_lost: Option<u64>,
    /// From the failure, or the beginning of the standstill, until the first new step was done.
    pub seconds_lost: Option<f64>,
}

/// Where a rank stood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankRecord {
    /// Which rank.
    pub rank: usize,
    /// Where.
    pub host: String,
    /// Its GPU.
    pub gpu: usize,
    /// Its process's state, as the kernel has it.
    pub state: Option<char>,
    /// Its ledger.
    pub ledger: Option<Reading>,
}

/// How the group went down.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GroupRecord {
    /// From the verdict until all was gone.
    pub seconds_to_down: f64,
    /// Processes that could not be ended.
    pub processes_left: usize,
    /// Hosts that could not be asked.
    pub unverified_hosts: Vec<String>,
}

impl GroupRecord {
    /// Whether all processes of the group are known to be gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.processes_left == 0 && self.unverified_hosts.is_empty()
    }
}
