//! `admiral checkpoint`: looking at checkpoints and tidying them, at any place; to and from other programs' files.

mod diff;
mod error;
mod export;
mod import;
mod list;
mod print;
mod probe;
mod prune;
mod recognise;
mod show;
mod table;
mod verify;

use clap::Subcommand;

pub use diff::DiffOptions;
pub use error::ToolError;
pub use export::ExportOptions;
pub use import::ImportOptions;
pub use list::ListOptions;
pub use probe::ProbeOptions;
pub use prune::PruneOptions;
pub use show::ShowOptions;
pub use verify::VerifyOptions;

/// What is done with checkpoints.
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// List what lies at a place: checkpoints, unfinished and damaged ones, and who writes there
    List(ListOptions),
    /// Print what a checkpoint says of itself
    Show(ShowOptions),
    /// Read checkpoints and hold every file to its length, its checksum and its tensors
    Verify(VerifyOptions),
    /// Compare two checkpoints; exits with 1 where they differ
    Diff(DiffOptions),
    /// Delete old checkpoints and what unfinished saves have left
    Prune(PruneOptions),
    /// Try whether checkpoints can be written to a place from here: a small file is written, read back and deleted
    Probe(ProbeOptions),
    /// Make a checkpoint of a PyTorch file or of safetensors
    Import(ImportOptions),
    /// Write a checkpoint's weights to a PyTorch file or to safetensors
    Export(ExportOptions),
}

/// How a job ended that had no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is as it should be.
    Done,
    /// Two things that were compared differ.
    Different,
}

/// Does it.
///
/// # Errors
/// When a checkpoint or a place cannot be read, is damaged, or an option does not fit it.
pub fn run(command: &CheckpointCommand) -> Result<Outcome, ToolError> {
    match command {
        CheckpointCommand::List(options) => list::run(options).map(|()| Outcome::Done),
        CheckpointCommand::Show(options) => show::run(options).map(|()| Outcome::Done),
        CheckpointCommand::Verify(options) => verify::run(options).map(|()| Outcome::Done),
        CheckpointCommand::Diff(options) => diff::run(options),
        CheckpointCommand::Prune(options) => prune::run(options).map(|()| Outcome::Done),
        CheckpointCommand::Probe(options) => probe::run(options).map(|()| Outcome::Done),
        CheckpointCommand::Import(options) => import::run(options).map(|()| Outcome::Done),
        CheckpointCommand::Export(options) => export::run(options).map(|()| Outcome::Done),
    }
}
