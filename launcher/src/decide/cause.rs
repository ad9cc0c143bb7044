//! Why a group ended.

use admiral_contract::ExitCode;
use serde::{Deserialize, Serialize};

/// What clap, which reads a rank's command line, exits with when it does not understand it.
pub(super) const USAGE: u8 = 2;

/// The launcher's own code for what no other code says.
const OTHER: u8 = 1;

/// Why a group ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A rank exited with this code.
    Exit(u8),
    /// A signal killed a rank.
    Signal(i32),
    /// The group stood still.
    Stalled,
    /// Nothing was heard of a whole host.
    HostLost,
    /// A rank's agent was lost, and with it the rank.
    #[serde(rename = "attendant_lost")]
    AgentLost,
    /// `mpirun` ended before the group did.
    MpirunDied,
    /// A rank never came up or never got ready.
    Start,
}

impl Cause {
    /// Whether the hosts to blame are known to be bad, and not only suspected.
    pub(super) fn condemns_hosts(self) -> bool {
        self == Self::HostLost || self == Self::Exit(ExitCode::Node as u8)
    }
}

/// What ended a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// When, in seconds since the launch.
    pub at_seconds: f64,
    /// The rank that failed first, where it is one.
    pub rank: Option<usize>,
    /// The hosts to blame; empty: nobody.
    pub hosts: Vec<String>,
    /// Why.
    pub cause: Cause,
    /// By how many steps the group had come further than any group of this launch before it.
    pub steps_gained: u64,
}

/// What the launcher exits with when it gives up after this.
#[must_use]
pub fn code_of(cause: Cause) -> u8 {
    match cause {
        Cause::HostLost => ExitCode::Node as u8,
        Cause::Exit(USAGE) => ExitCode::Config as u8,
        Cause::Exit(code) => ExitCode::from_byte(code).map_or(OTHER, |code| code as u8),
        Cause::Signal(_) | Cause::Stalled | Cause::AgentLost | Cause::MpirunDied | Cause::Start => OTHER,
    }
}
