//! The errors of `admiral checkpoint`, with their exit codes.

use admiral_checkpoint::Error as CheckpointError;
use admiral_comm::ExitCode;

use crate::train::TrainError;

/// An error of a command for checkpoints.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// A checkpoint or its store cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An option does not fit, or a checkpoint is damaged.
    #[error("{0}")]
    Refused(String),
    /// An error that training shares.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A file that the user asked for cannot be written.
    #[error("cannot write {path}: {cause}; write it somewhere else, or make room")]
    File {
        /// The file.
        path: String,
        /// The reason.
        cause: String,
    },
    /// Standard output cannot be written.
    #[error("cannot print: {0}")]
    Output(#[from] std::io::Error),
}

impl From<admiral_storage::Error> for ToolError {
    fn from(error: admiral_storage::Error) -> Self {
        Self::Checkpoint(error.into())
    }
}

impl ToolError {
    /// Returns the exit code of the program.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Checkpoint(error) => error.exit_code(),
            Self::Train(error) => error.exit_code(),
            Self::Refused(_) | Self::File { .. } | Self::Output(_) => ExitCode::Config,
        }
    }
}
