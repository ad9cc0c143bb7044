//! The errors of a launch.

use admiral_contract::ExitCode;

use crate::job::JobKind;

/// The launch ends without a run.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LaunchError {
    /// The launcher's exit code.
    pub code: u8,
    /// The reason, for people.
    pub message: String,
}

impl LaunchError {
    /// A mistake that a restart cannot fix.
    pub fn config(message: impl std::fmt::Display) -> Self {
        Self { code: ExitCode::Config as u8, message: message.to_string() }
    }

    /// The run was asked to stop before anything was done.
    pub(crate) fn stopped_early(kind: JobKind) -> Self {
        Self { code: ExitCode::Preempted as u8, message: kind.stopped_early().to_owned() }
    }

    /// A problem of this machine.
    pub fn system(message: impl std::fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }
}
