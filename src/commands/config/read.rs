//! Reads the configuration that a command names.

use std::path::{Path, PathBuf};

use admiral_comm::ExitCode;
use admiral_config::{Invalid, format_mistakes, load};
use clap::Args;

use crate::commands::ranks::CommandError;
use crate::run_config::RunConfig;

/// A configuration as a positional argument.
#[derive(Args)]
pub(in crate::commands) struct ConfigArguments {
    /// The configuration, a YAML file
    pub(in crate::commands) config: PathBuf,
    /// Override a field: --set optimizer.learning_rate=2e-4
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub(in crate::commands) overrides: Vec<String>,
}

/// A configuration as an option.
#[derive(Args)]
pub(in crate::commands) struct ConfigOptions {
    /// The configuration, a YAML file
    #[arg(long)]
    pub(in crate::commands) config: PathBuf,
    /// Override a field: --set precision.mode=fp32
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub(in crate::commands) overrides: Vec<String>,
}

/// Reads a configuration for a command of a single process.
///
/// # Errors
/// When the configuration cannot be read or has mistakes, with the exit code.
pub(in crate::commands) fn read(config: &Path, overrides: &[String]) -> Result<RunConfig, CommandError> {
    load(config, overrides).map_err(|error| (ExitCode::Config, error.into()))
}

/// Returns the error of a configuration that makes no valid network.
pub(in crate::commands) fn refuse(mistakes: Vec<Invalid>) -> CommandError {
    (ExitCode::Config, anyhow::anyhow!(format_mistakes(&mistakes)))
}
