//! Why a launch ends without a run.

use admiral_contract::ExitCode;

/// Why a launch ends without a run; each with what the launcher exits with.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LaunchError {
    /// What the launcher exits with.
    pub code: u8,
    /// For people.
    pub message: String,
}

impl LaunchError {
    /// Something that starting again cannot mend.
    pub fn config(message: impl std::fmt::Display) -> Self {
        Self { code: ExitCode::Config as u8, message: message.to_string() }
    }

    /// A stop that came before anything was done: there is nothing to lose.
    pub(crate) fn stopped_early() -> Self {
        Self { code: ExitCode::Preempted as u8, message: "asked to stop before its first step".to_owned() }
    }

    /// Something about this machine.
    pub fn system(message: impl std::fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }
}
