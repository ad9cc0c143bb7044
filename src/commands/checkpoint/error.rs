//! What can go wrong with the tools, and the exit codes.

use admiral_checkpoint::Error as CheckpointError;
use admiral_comm::ExitCode;

use crate::train::TrainError;

/// Why a tool could not do its job.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// A checkpoint or its place.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An option does not fit, or a checkpoint is not what it should be.
    #[error("{0}")]
    Refused(String),
    /// A run's own error.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A file that the user asked for cannot be written.
    #[error("cannot write {path}: {cause}; write it somewhere else, or make room")]
    File {
        /// The file.
        path: String,
        /// Why.
        cause: String,
    },
    /// Nobody takes what is printed.
    #[error("cannot print: {0}")]
    Output(#[from] std::io::Error),
}

impl From<admiral_storage::Error> for ToolError {
    fn from(error: admiral_storage::Error) -> Self {
        Self::Checkpoint(error.into())
    }
}

impl ToolError {
    /// What the program exits with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Checkpoint(error) => error.exit_code(),
            Self::Train(error) => error.exit_code(),
            Self::Refused(_) | Self::File { .. } | Self::Output(_) => ExitCode::Config,
        }
    }
}
