//! `admiral device`: the libraries, GPUs and kernels of this machine.

use admiral_comm::ExitCode;

use crate::device::Report;
use crate::gpus::Gpus;

use super::ranks::{CommandError, print_json};

/// Prints the report.
///
/// # Errors
/// When the command fails, with the exit code.
pub(super) fn run(json: bool, gpus: &Gpus) -> Result<(), CommandError> {
    let report = Report::of_this_machine(gpus).map_err(|error| (ExitCode::Bug, error.into()))?;
    if json {
        return print_json(&report);
    }
    print!("{report}");
    Ok(())
}
