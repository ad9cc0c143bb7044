//! Why there is no proposal.

use admiral_advice::NoNetwork;
use admiral_comm::ExitCode;
use admiral_data::DataError;

use crate::commands::hardware::HardwareError;

/// Why there is no proposal. Nothing is written.
#[derive(Debug, thiserror::Error)]
pub(super) enum NewError {
    /// The hardware is unknown.
    #[error(transparent)]
    Hardware(#[from] HardwareError),
    /// An option has an invalid value.
    #[error("{option} {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong with it, and what is right.
        reason: String,
    },
    /// There are no images at the place that an option names.
    #[error("{reason}; check {option}")]
    Images {
        /// The option.
        option: &'static str,
        /// What is wrong, with the path.
        reason: String,
    },
    /// The images cannot be read.
    #[error(transparent)]
    Data(DataError),
    /// No network fits into the memory.
    #[error(transparent)]
    Memory(#[from] NoNetwork),
    /// The images and options make no valid configuration.
    #[error("these images make no valid configuration: {0}")]
    Invalid(String),
    /// The file exists.
    #[error("{0} exists, and is not replaced; give another --out, or remove it")]
    Exists(String),
    /// The file cannot be written.
    #[error("{path} cannot be written: {source}; check --out")]
    File {
        /// The file.
        path: String,
        /// The error of the file system.
        source: std::io::Error,
    },
}

impl NewError {
    /// Returns the exit code.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Data(error) if error.may_pass() => ExitCode::Store,
            _ => ExitCode::Config,
        }
    }
}

impl From<DataError> for NewError {
    /// Names the options instead of the fields of a configuration, which does not exist yet.
    fn from(error: DataError) -> Self {
        let option = |field: &str| if field == "data.label_path" { "--labels" } else { "--data" };
        match error {
            DataError::Unreadable { path, reason, field } => {
                Self::Images { option: option(field), reason: format!("{path}: {reason}") }
            }
            DataError::Empty { path, what, field } => {
                Self::Images { option: option(field), reason: format!("{path} holds no {what}") }
            }
            error => Self::Data(error),
        }
    }
}
