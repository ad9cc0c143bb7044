//! `admiral version`: the versions of Admiral, libtorch and MPI.

use admiral_comm::ExitCode;

use crate::version::Versions;

use super::ranks::{CommandError, print_json};

/// Prints the versions.
///
/// # Errors
/// When the command fails, with the exit code.
pub(super) fn run(json: bool) -> Result<(), CommandError> {
    let versions = Versions::of_this_process().map_err(|error| (ExitCode::Bug, error.into()))?;
    if json {
        return print_json(&versions);
    }
    print!("{versions}");
    Ok(())
}
