//! `admiral flops`: what a network costs.

use super::config::{ConfigArguments, read, refuse};
use super::ranks::CommandError;

/// Prints parameters and FLOPs.
///
/// # Errors
/// With the exit code.
pub(super) fn run(arguments: &ConfigArguments) -> Result<(), CommandError> {
    let config = read(&arguments.config, &arguments.overrides)?;
    for (name, value) in config.network_cost().map_err(refuse)? {
        println!("{name:<34} {value:>22}");
    }
    Ok(())
}
