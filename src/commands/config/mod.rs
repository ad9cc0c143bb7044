//! `admiral config`: prints the effective configuration, and what is doubtful in it. Also reads configurations for other
//! commands.

mod check;
mod facts;
mod read;
mod show;

use admiral_storage::StoreOptions;
use clap::Subcommand;

pub(super) use read::{ConfigArguments, ConfigOptions, read, refuse};

use self::check::CheckArguments;
use self::show::ShowArguments;
use super::ranks::CommandError;

/// The commands for configurations.
#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the whole effective configuration and the values derived from it
    Show(ShowArguments),
    /// Print what is doubtful in a configuration; exits with 1 if anything is
    Check(CheckArguments),
}

/// Runs the command. Returns whether it found something doubtful.
///
/// # Errors
/// When the command fails, with the exit code.
pub(super) fn run(command: &ConfigCommand, stores: &StoreOptions) -> Result<bool, CommandError> {
    match command {
        ConfigCommand::Show(arguments) => show::run(arguments).map(|()| false),
        ConfigCommand::Check(arguments) => check::run(arguments, stores),
    }
}
