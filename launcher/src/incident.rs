//! `failure.json`: the failure, its place, the launcher's reaction, and the costs.

use admiral_contract::Reading;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::job::JobKind;

/// An incident. It is written when the group is gone, and again with the costs when the run continues.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The launch.
    pub launch_id: String,
    /// What the ranks did.
    #[serde(default)]
    pub kind: JobKind,
    /// The number of the incident in this run, from 1.
    pub incident: u64,
    /// The attempt that failed, from 0.
    pub attempt: u64,
    /// The time of the verdict.
    pub detected: Timestamp,
    /// The failure, in one sentence.
    pub verdict: String,
    /// The rank that failed first; `None` if a host or mpirun failed.
    pub rank: Option<usize>,
    /// The rank's host, or the host to blame.
    pub host: Option<String>,
    /// The rank's GPU: its local rank.
    pub gpu: Option<usize>,
    /// The rank's exit code, if it exited.
    pub exit_code: Option<u8>,
    /// The signal that killed the rank, if the launcher did not send it.
    pub signal: Option<String>,
    /// The rank's last lines of output. If `mpirun` did not start all ranks, the first lines of `mpirun`.
    pub last_lines: Vec<String>,
    /// The stacks of the rank's threads, if it stood still.
    pub stack: Option<String>,
    /// The state of all ranks.
    pub ranks: Vec<RankRecord>,
    /// The number of completed steps or finished images.
    pub step: u64,
    /// The end of the group's processes.
    pub group: GroupRecord,
    /// The launcher's reaction.
    pub action: String,
    /// The duration of the standstill at the verdict, in seconds.
    pub standstill_seconds: f64,
    /// The time at which a drill cut a host off.
    pub harmed: Option<Timestamp>,
    /// Steps or images that are repeated; known when the run continues.
    pub steps_lost: Option<u64>,
    /// From the failure, or the beginning of the standstill, until the first new step or image was done.
    pub seconds_lost: Option<f64>,
}

/// The state of a rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankRecord {
    /// The rank.
    pub rank: usize,
    /// Its host.
    pub host: String,
    /// Its GPU.
    pub gpu: usize,
    /// The state of its process, as the kernel names it.
    pub state: Option<char>,
    /// Its ledger.
    pub ledger: Option<Reading>,
}

/// The end of a group's processes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GroupRecord {
    /// From the verdict until all processes were gone.
    pub seconds_to_down: f64,
    /// The number of processes that could not be ended.
    pub processes_left: usize,
    /// Hosts that could not be asked.
    pub unverified_hosts: Vec<String>,
}

impl GroupRecord {
    /// Returns whether all processes of the group are known to be gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.processes_left == 0 && self.unverified_hosts.is_empty()
    }
}
