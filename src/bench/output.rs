//! Printing of measurements.

use admiral_comm::{Collective, Ending};
use serde::Serialize;

use crate::train::TrainError;

/// Prints a measurement on rank 0, as JSON or with `print`.
///
/// # Errors
/// When it cannot be written as JSON, on this rank alone.
pub(super) fn print_on_root<T: Serialize>(
    measured: &T,
    as_json: bool,
    print: impl FnOnce(&T),
    collective: &dyn Collective,
) -> Result<(), Ending> {
    if collective.rank() == 0 {
        print_as(measured, as_json, print).map_err(|error| Ending::alone(error.exit_code(), &error))?;
    }
    Ok(())
}

/// Prints a measurement, as JSON or with `print`.
///
/// # Errors
/// When it cannot be written as JSON.
pub(super) fn print_as<T: Serialize>(measured: &T, as_json: bool, print: impl FnOnce(&T)) -> Result<(), TrainError> {
    if as_json {
        println!("{}", serde_json::to_string_pretty(measured).map_err(|error| TrainError::Bug(error.to_string()))?);
    } else {
        print(measured);
    }
    Ok(())
}
