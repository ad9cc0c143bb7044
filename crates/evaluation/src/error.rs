//! Errors of evaluation that need no network.

use admiral_contract::ExitCode;
use admiral_data::DataError;
use admiral_metrics::MetricError;

/// Why images cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two things cannot be compared, or an option does not fit the images.
    #[error("{0}")]
    Refused(String),
    /// The images of an npz file or of a job cannot be read.
    #[error(transparent)]
    Samples(#[from] admiral_samples::Error),
    /// Pictures cannot be read.
    #[error(transparent)]
    Data(DataError),
    /// A file has another form than expected.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What was found, and what to do.
        reason: String,
    },
    /// A stored file of features is not as it was written. It was removed.
    #[error("{url} is damaged: {reason}; it was removed, start the command again to compute it again")]
    Damaged {
        /// The file.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A metric cannot be computed.
    #[error("{metric} cannot be computed: {error}")]
    Metric {
        /// The name of the metric.
        metric: &'static str,
        /// The reason.
        error: MetricError,
    },
}

impl Error {
    /// Returns the exit code of a command that ends with this error.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Refused(_) | Self::File { .. } | Self::Metric { .. } => ExitCode::Config,
            Self::Samples(error) => error.exit_code(),
            // The file system may be back at the next start.
            Self::Damaged { .. } => ExitCode::Store,
            Self::Data(error) if error.may_pass() => ExitCode::Store,
            Self::Data(_) => ExitCode::Config,
        }
    }
}

impl From<DataError> for Error {
    fn from(error: DataError) -> Self {
        // An option or a field of another section names the images.
        Self::Data(error.without_fields())
    }
}

impl From<admiral_npz::Error> for Error {
    fn from(error: admiral_npz::Error) -> Self {
        Self::Samples(error.into())
    }
}

impl From<admiral_statistics::Error> for Error {
    fn from(error: admiral_statistics::Error) -> Self {
        match error {
            admiral_statistics::Error::Refused(reason) => Self::Refused(reason),
            admiral_statistics::Error::File { file, reason } => Self::File { file, reason },
            admiral_statistics::Error::Metric(error) => Self::Metric { metric: "statistics", error },
        }
    }
}

impl From<admiral_storage::Error> for Error {
    fn from(error: admiral_storage::Error) -> Self {
        Self::Samples(error.into())
    }
}
