//! The errors of sampling, with their exit codes.

use admiral_checkpoint::Error as CheckpointError;
use admiral_comm::{CollectiveError, ExitCode};
use admiral_contract::files::is_wrong_place;
use admiral_data::DataError;

use crate::context::ContextError;
use crate::model::ParamError;
use crate::ops;

/// Why images cannot be sampled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option, a configuration or a file asks for something that cannot be done.
    #[error("{0}")]
    Refused(String),
    /// The images to start from cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The network does not fit the parameters that were loaded.
    #[error(transparent)]
    Model(#[from] ParamError),
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The output of the job, or that of another job, cannot be read or written.
    #[error(transparent)]
    Output(#[from] admiral_samples::Error),
    /// A file that the user asked for cannot be written.
    #[error("{path}: {source}; write it somewhere else")]
    File {
        /// The file.
        path: String,
        /// The reason.
        source: std::io::Error,
    },
    /// The ranks cannot reach each other.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// One of Admiral's own operations failed.
    #[error(transparent)]
    Operation(#[from] ops::Error),
    /// A bug in Admiral.
    #[error("this is a bug in Admiral: {0}")]
    Bug(String),
}

impl From<admiral_npz::Error> for Error {
    fn from(error: admiral_npz::Error) -> Self {
        Self::Output(error.into())
    }
}

impl From<ContextError> for Error {
    fn from(error: ContextError) -> Self {
        match error {
            ContextError::Device(message) => Self::Refused(message),
            ContextError::Operation(error) => Self::Operation(error),
            ContextError::Collective(error) => Self::Collective(error),
        }
    }
}

impl Error {
    /// Returns the exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            // The file system may be back, or have space, at the next start.
            Self::Data(error) if error.may_pass() => ExitCode::Store,
            Self::File { source, .. } if !is_wrong_place(source) => ExitCode::Store,
            Self::Data(DataError::Cancelled) => ExitCode::Preempted,
            Self::Refused(_) | Self::Data(_) | Self::Model(_) | Self::File { .. } => ExitCode::Config,
            Self::Checkpoint(error) => error.exit_code(),
            Self::Output(error) => error.exit_code(),
            Self::Collective(_) | Self::Operation(_) | Self::Bug(_) => ExitCode::Bug,
        }
    }
}
