//! `admiral version`: which Admiral this is, and what it runs on.

use admiral_comm::ExitCode;

use crate::version::Versions;

use super::ranks::{CommandError, print_json};

/// Prints the versions.
///
/// # Errors
/// With the exit code.
pub(super) fn run(json: bool) -> Result<(), CommandError> {
    let versions = Versions::of_this_process().map_err(|error| (ExitCode::Bug, error.into()))?;
    if json {
        return print_json(&versions);
    }
    print!("{versions}");
    Ok(())
}
