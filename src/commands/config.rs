//! `admiral config`: prints the effective configuration. Also reads configurations for other commands.

use std::path::{Path, PathBuf};

use admiral_comm::ExitCode;
use admiral_config::{Invalid, format_mistakes, load, show};
use clap::{Args, Subcommand};

use crate::run_config::RunConfig;

use super::ranks::{CommandError, print_json};

/// A configuration as a positional argument.
#[derive(Args)]
pub(super) struct ConfigArguments {
    /// The configuration, a YAML file
    pub(super) config: PathBuf,
    /// Override a field: --set optimizer.learning_rate=2e-4
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub(super) overrides: Vec<String>,
}

/// A configuration as an option.
#[derive(Args)]
pub(super) struct ConfigOptions {
    /// The configuration, a YAML file
    #[arg(long)]
    pub(super) config: PathBuf,
    /// Override a field: --set precision.mode=fp32
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub(super) overrides: Vec<String>,
}

/// The arguments of `admiral config show`.
#[derive(Args)]
pub(super) struct ShowArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Print JSON: the configuration, and the values derived from it under "derived"
    #[arg(long)]
    json: bool,
}

/// The commands for configurations.
#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the whole effective configuration and the values derived from it
    Show(ShowArguments),
}

/// Runs the command.
///
/// # Errors
/// When the command fails, with the exit code.
pub(super) fn run(command: &ConfigCommand) -> Result<(), CommandError> {
    let ConfigCommand::Show(arguments) = command;
    let config = read(&arguments.config.config, &arguments.config.overrides)?;
    if arguments.json {
        let derived = config.facts().map_err(refuse)?;
        return print_json(&serde_json::json!({ "config": config, "derived": derived }));
    }
    print!("{}", show(&config, &config.derived().map_err(refuse)?));
    Ok(())
}

/// Reads a configuration for a command of a single process.
///
/// # Errors
/// When the configuration cannot be read or has mistakes, with the exit code.
pub(super) fn read(config: &Path, overrides: &[String]) -> Result<RunConfig, CommandError> {
    load(config, overrides).map_err(|error| (ExitCode::Config, error.into()))
}

/// Returns the error of a configuration that makes no valid network.
pub(super) fn refuse(mistakes: Vec<Invalid>) -> CommandError {
    (ExitCode::Config, anyhow::anyhow!(format_mistakes(&mistakes)))
}
