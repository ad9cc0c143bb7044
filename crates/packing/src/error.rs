//! Errors of packing.

use admiral_contract::files::is_wrong_place;

/// Why a data set cannot be packed or surveyed. A retry helps only where [`Error::may_pass`] says so.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// An option has an invalid value.
    #[error("{option}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong, and what to give.
        reason: String,
    },
    /// The place cannot take the shards.
    #[error("--out {place}: {reason}")]
    Place {
        /// The place.
        place: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A file has a wrong name or content, or may not be written or read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The file system fails, for example because it is full.
    #[error("{path}: {reason}")]
    Unavailable {
        /// The file.
        path: String,
        /// The error of the operating system.
        reason: String,
    },
    /// The source cannot be packed.
    #[error("{0}")]
    Source(String),
    /// An image is broken.
    #[error("{path}: {reason}; repair or remove it, or leave it out with --on-broken skip")]
    Broken {
        /// The image.
        path: String,
        /// The message of the decoder.
        reason: String,
    },
    /// The source cannot be read.
    #[error(transparent)]
    Data(#[from] admiral_data::DataError),
    /// A store refuses or does not answer.
    #[error(transparent)]
    Storage(#[from] admiral_storage::Error),
    /// A part of the program has failed.
    #[error("{0}")]
    Bug(String),
}

impl Error {
    /// Returns whether a file system or a store fails, so that the same command may succeed later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Data(error) => error.may_pass(),
            Self::Storage(error) => matches!(error, admiral_storage::Error::Failed { .. }),
            Self::Option { .. }
            | Self::Place { .. }
            | Self::File { .. }
            | Self::Source(_)
            | Self::Broken { .. }
            | Self::Bug(_) => false,
        }
    }

    /// Returns the error about a file.
    #[must_use]
    pub fn of_file(path: &std::path::Path, error: &std::io::Error) -> Self {
        let (path, reason) = (path.display().to_string(), error.to_string());
        if is_wrong_place(error) { Self::File { path, reason } } else { Self::Unavailable { path, reason } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_may_pass_and_a_wrong_path_does_not() {
        const ENOSPC: i32 = 28;
        const EACCES: i32 = 13;
        let may_pass =
            |code| Error::of_file(std::path::Path::new("x"), &std::io::Error::from_raw_os_error(code)).may_pass();
        assert!(may_pass(ENOSPC) && !may_pass(EACCES));
    }
}
