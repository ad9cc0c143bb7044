//! Errors that the commands for data sets share.

use admiral_comm::ExitCode;

use super::super::ranks::CommandError;

/// Returns an error of packing with its exit code.
pub(super) fn failed(error: admiral_packing::Error) -> CommandError {
    let code = match &error {
        error if error.may_pass() => ExitCode::Store,
        admiral_packing::Error::Bug(_) => ExitCode::Bug,
        _ => ExitCode::Config,
    };
    (code, error.into())
}

/// Returns the error of a wrong option.
pub(super) fn refused(message: impl Into<String>) -> CommandError {
    (ExitCode::Config, anyhow::anyhow!(message.into()))
}
