//! `admiral config show`: prints the effective configuration.

use admiral_config::show;
use clap::Args;

use crate::commands::ranks::{CommandError, print_json};

use super::read::{ConfigArguments, read, refuse};

/// The arguments of `admiral config show`.
#[derive(Args)]
pub(in crate::commands) struct ShowArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Print JSON: the configuration, and the values derived from it under "derived"
    #[arg(long)]
    json: bool,
}

/// Prints the configuration and the values derived from it.
///
/// # Errors
/// When the configuration cannot be read or has mistakes, with the exit code.
pub(super) fn run(arguments: &ShowArguments) -> Result<(), CommandError> {
    let config = read(&arguments.config.config, &arguments.config.overrides)?;
    if arguments.json {
        let derived = config.facts().map_err(refuse)?;
        return print_json(&serde_json::json!({ "config": config, "derived": derived }));
    }
    print!("{}", show(&config, &config.derived().map_err(refuse)?));
    Ok(())
}
