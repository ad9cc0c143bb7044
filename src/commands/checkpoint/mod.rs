//! `admiral checkpoint`: lists, shows, verifies, compares, deletes, imports and exports checkpoints in any store.

mod diff;
mod error;
mod export;
mod import;
mod list;
mod options;
mod outcome;
mod print;
mod probe;
mod prune;
mod recognise;
mod show;
mod table;
mod verify;

use admiral_storage::CloudSettings;
use clap::Subcommand;

pub use diff::DiffOptions;
pub use error::ToolError;
pub use export::ExportOptions;
pub use import::ImportOptions;
pub use list::ListOptions;
pub use outcome::Outcome;
pub use probe::ProbeOptions;
pub use prune::PruneOptions;
pub use show::ShowOptions;
pub use verify::VerifyOptions;

/// The commands for checkpoints.
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// List checkpoints, including unfinished and damaged ones, and the run that writes them
    List(ListOptions),
    /// Print the contents of a checkpoint's manifest
    Show(ShowOptions),
    /// Read checkpoints and check the length, the checksum and the tensors of every file
    Verify(VerifyOptions),
    /// Compare two checkpoints; exits with 1 if they differ
    Diff(DiffOptions),
    /// Delete old checkpoints and the remains of unfinished saves
    Prune(PruneOptions),
    /// Check whether this host can save checkpoints: write, read back and delete a small file
    Probe(ProbeOptions),
    /// Make a checkpoint from a PyTorch file or from safetensors
    Import(ImportOptions),
    /// Write a checkpoint's weights to a PyTorch file or to safetensors
    Export(ExportOptions),
}

/// Runs a command.
///
/// # Errors
/// When a checkpoint or a store cannot be read or is damaged, or an option does not fit it.
pub fn run(command: &CheckpointCommand, clouds: &CloudSettings) -> Result<Outcome, ToolError> {
    match command {
        CheckpointCommand::List(options) => list::run(options, clouds).map(|()| Outcome::Done),
        CheckpointCommand::Show(options) => show::run(options, clouds).map(|()| Outcome::Done),
        CheckpointCommand::Verify(options) => verify::run(options, clouds).map(|()| Outcome::Done),
        CheckpointCommand::Diff(options) => diff::run(options, clouds),
        CheckpointCommand::Prune(options) => prune::run(options, clouds).map(|()| Outcome::Done),
        CheckpointCommand::Probe(options) => probe::run(options, clouds).map(|()| Outcome::Done),
        CheckpointCommand::Import(options) => import::run(options, clouds).map(|()| Outcome::Done),
        CheckpointCommand::Export(options) => export::run(options, clouds).map(|()| Outcome::Done),
    }
}
