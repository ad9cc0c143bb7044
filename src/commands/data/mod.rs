//! `admiral data`: data sets as a whole. Each command has its own file.

mod common;
mod doctor;
mod pack;
mod show;
mod source;

use clap::Subcommand;

use crate::environment::Environment;

use super::ranks::CommandError;

/// The commands for data sets.
#[derive(Subcommand)]
pub(super) enum DataCommand {
    /// Pack images into tar shards, as they are or already scaled and cropped; continues a packing that was interrupted
    Pack(pack::PackOptions),
    /// Print what a data set holds: classes, formats, sizes, broken images, the hash of the order; draw a contact sheet
    Show(show::ShowOptions),
    /// Measure how fast images are read and decoded, compare it with what training needs, and name what limits it
    Doctor(doctor::DoctorOptions),
}

/// Runs the command.
///
/// # Errors
/// When the command fails, with the exit code.
pub(super) fn run(command: &DataCommand, environment: &Environment) -> Result<(), CommandError> {
    let stores = environment.store_options();
    match command {
        DataCommand::Pack(options) => pack::run(options, &stores),
        DataCommand::Show(options) => show::run(options, &stores),
        DataCommand::Doctor(options) => doctor::run(options, &stores),
    }
}
