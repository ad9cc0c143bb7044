//! Errors of containers.

use std::io;

use crate::files::may_pass;

/// Why a container cannot be opened or an image cannot be read from it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A file or folder does not exist, or may not be read.
    #[error("{path}: {reason}")]
    Unreadable {
        /// The file or folder.
        path: String,
        /// The reason.
        reason: String,
    },
    /// The file system fails, and not the file.
    #[error("{path} cannot be read now: {reason}; the file system fails, and not the file")]
    Unavailable {
        /// The file or folder.
        path: String,
        /// The reason.
        reason: String,
    },
    /// A store refuses or does not answer.
    #[error(transparent)]
    Storage(#[from] admiral_storage::Error),
    /// There are no images.
    #[error("{path} holds no {what}")]
    Empty {
        /// The place.
        path: String,
        /// What it lacks.
        what: String,
    },
    /// The content of a container is wrong.
    #[error("{path}: {reason}")]
    Malformed {
        /// The container's file, and where known the member and its offset.
        path: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The bytes of an image differ from those that were indexed, or cannot be unpacked.
    #[error("{path}: {reason}")]
    Damaged {
        /// The image.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// Returns the error about a local file.
    pub(crate) fn of_file(path: &str, error: &io::Error) -> Self {
        let (path, reason) = (path.to_owned(), error.to_string());
        if may_pass(error) { Self::Unavailable { path, reason } } else { Self::Unreadable { path, reason } }
    }

    pub(crate) fn malformed(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), reason: reason.into() }
    }
}
