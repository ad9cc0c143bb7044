//! `admiral flops`: the cost of a network.

use super::config::{ConfigArguments, read, refuse};
use super::ranks::CommandError;

/// Prints parameters and FLOPs.
///
/// # Errors
/// When the command fails, with the exit code.
pub(super) fn run(arguments: &ConfigArguments) -> Result<(), CommandError> {
    let config = read(&arguments.config, &arguments.overrides)?;
    for (name, value) in config.network_cost().map_err(refuse)? {
        println!("{name:<34} {value:>22}");
    }
    Ok(())
}
