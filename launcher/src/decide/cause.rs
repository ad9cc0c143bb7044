//! The cause of a group's end.

use admiral_contract::ExitCode;
use serde::{Deserialize, Serialize};

/// The exit code of a rank whose command line was not understood. The argument parser sets it.
pub(super) const USAGE_EXIT_CODE: u8 = 2;

/// The launcher's exit code if no other code fits.
const OTHER_EXIT_CODE: u8 = 1;

/// The cause of a group's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A rank exited with this code.
    Exit(u8),
    /// A signal killed a rank.
    Signal(i32),
    /// The group stood still.
    Stalled,
    /// A whole host went silent.
    HostLost,
    /// A rank's agent was lost, and the rank with it.
    #[serde(rename = "attendant_lost")]
    AgentLost,
    /// `mpirun` ended before the group did.
    MpirunDied,
    /// A rank was not started, or did not get ready.
    Start,
}

impl Cause {
    /// Returns whether the hosts to blame are known to be bad, and not only suspected.
    pub(super) fn condemns_hosts(self) -> bool {
        self == Self::HostLost || self == Self::Exit(ExitCode::Node as u8)
    }
}

/// The failure that ended a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// The time of the failure, in seconds since the launch.
    pub at_seconds: f64,
    /// The rank that failed first, if a rank did.
    pub rank: Option<usize>,
    /// The hosts to blame; empty if there are none.
    pub hosts: Vec<String>,
    /// The cause.
    pub cause: Cause,
    /// The number of steps or images by which the group got further than all earlier groups of this launch.
    pub steps_gained: u64,
}

/// Returns the launcher's exit code if it gives up because of this cause.
#[must_use]
pub fn code_of(cause: Cause) -> u8 {
    match cause {
        Cause::HostLost => ExitCode::Node as u8,
        Cause::Exit(USAGE_EXIT_CODE) => ExitCode::Config as u8,
        Cause::Exit(code) => ExitCode::from_byte(code).map_or(OTHER_EXIT_CODE, |code| code as u8),
        Cause::Signal(_) | Cause::Stalled | Cause::AgentLost | Cause::MpirunDied | Cause::Start => OTHER_EXIT_CODE,
    }
}
