//! `admiral checkpoint`: looking at checkpoints and tidying them, at any place; to and from other programs' files.

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

use admiral_storage::S3Settings;
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

/// Runs a command.
///
/// # Errors
/// When a checkpoint or a place cannot be read, is damaged, or an option does not fit it.
pub fn run(command: &CheckpointCommand, s3: &S3Settings) -> Result<Outcome, ToolError> {
    match command {
        CheckpointCommand::List(options) => list::run(options, s3).map(|()| Outcome::Done),
        CheckpointCommand::Show(options) => show::run(options, s3).map(|()| Outcome::Done),
        CheckpointCommand::Verify(options) => verify::run(options, s3).map(|()| Outcome::Done),
        CheckpointCommand::Diff(options) => diff::run(options, s3),
        CheckpointCommand::Prune(options) => prune::run(options, s3).map(|()| Outcome::Done),
        CheckpointCommand::Probe(options) => probe::run(options, s3).map(|()| Outcome::Done),
        CheckpointCommand::Import(options) => import::run(options, s3).map(|()| Outcome::Done),
        CheckpointCommand::Export(options) => export::run(options, s3).map(|()| Outcome::Done),
    }
}
