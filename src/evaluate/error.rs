//! The errors of evaluation, with their exit codes.

use admiral_comm::{CollectiveError, ExitCode};
use admiral_contract::files::is_wrong_place;

use crate::context::ContextError;
use crate::ops;
use crate::sample;

/// Why images cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option, a configuration or a file asks for something that cannot be done.
    #[error("{0}")]
    Refused(String),
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Sample(#[from] sample::Error),
    /// The weights of Inception cannot be read.
    #[error(transparent)]
    Inception(#[from] admiral_inception::Error),
    /// The images cannot be read, or not be compared.
    #[error(transparent)]
    Evaluation(#[from] admiral_evaluation::Error),
    /// The ranks cannot reach each other.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// One of Admiral's own operations failed.
    #[error(transparent)]
    Operation(#[from] ops::Error),
}

impl From<admiral_statistics::Error> for Error {
    fn from(error: admiral_statistics::Error) -> Self {
        Self::Evaluation(error.into())
    }
}

impl From<ContextError> for Error {
    fn from(error: ContextError) -> Self {
        Self::Sample(error.into())
    }
}

impl Error {
    /// Returns the exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            // The file system may be back at the next start.
            Self::Inception(admiral_inception::Error::File { source, .. }) if !is_wrong_place(source) => {
                ExitCode::Store
            }
            Self::Refused(_) | Self::Inception(_) => ExitCode::Config,
            Self::Sample(error) => error.exit_code(),
            Self::Evaluation(error) => error.exit_code(),
            Self::Collective(_) | Self::Operation(_) => ExitCode::Bug,
        }
    }
}
