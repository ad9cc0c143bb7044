//! Errors of saving and loading checkpoints.

use admiral_comm::ExitCode;
use serde::{Deserialize, Serialize};

/// Why a checkpoint could not be written or read.
///
/// Errors can be sent to other ranks, so that all of them end with the same one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// The text is not a location.
    #[error("{url:?} is not a location for checkpoints: {reason}")]
    Url {
        /// The text.
        url: String,
        /// The reason.
        reason: String,
    },
    /// An environment variable has a value that cannot be used.
    #[error("the environment variable {variable} {reason}")]
    Variable {
        /// The name of the variable.
        variable: String,
        /// What is wrong with its value, and what to do.
        reason: String,
    },
    /// The store refused or did not answer.
    #[error("cannot {operation} {url}: {cause}")]
    Store {
        /// The operation: `write`, `read`, `list`.
        operation: String,
        /// The URL of the file or the store.
        url: String,
        /// The message of the store.
        cause: String,
    },
    /// What is there, or the settings of this host, do not allow the operation. A retry cannot help.
    #[error("cannot {operation} {url}: {reason}")]
    Unusable {
        /// The operation: `write`, `read`, `open`.
        operation: String,
        /// The URL of the file or the store.
        url: String,
        /// The reason, and what to do.
        reason: String,
    },
    /// There is no checkpoint at the location.
    #[error("no checkpoint at {url}: {reason}")]
    NotFound {
        /// The location.
        url: String,
        /// The reason, and what was looked for.
        reason: String,
    },
    /// The step is already published. A published checkpoint is never overwritten.
    #[error(
        "{url} is already published by {by}; resume from it, or give this run another run.folder or checkpoint.url"
    )]
    AlreadyPublished {
        /// The checkpoint's folder.
        url: String,
        /// The run that wrote it.
        by: String,
    },
    /// Another run holds the lease of the store.
    #[error(
        "{by} writes its checkpoints to {url}; two runs cannot share a store: stop that one, or give this run another \
         run.folder or checkpoint.url"
    )]
    Owned {
        /// The store.
        url: String,
        /// The run that holds the lease.
        by: String,
    },
    /// One rank reads a file correctly, and another finds it damaged.
    #[error("rank {rank} reads it correctly, so another host's memory, disk or network damages the data: {error}")]
    BadReader {
        /// The rank that reads it correctly.
        rank: usize,
        /// The error of the other rank.
        error: String,
    },
    /// Too many saves failed in a row.
    #[error("{count} saves have failed in a row, as many as checkpoint.max_failures allows; the last: {last}")]
    GivenUp {
        /// The number of failed saves.
        count: u64,
        /// The error of the last one.
        last: String,
    },
    /// A file differs from its record in the manifest, or a manifest cannot be read.
    #[error("the checkpoint is damaged: {url}: {difference}; use the checkpoint of an earlier step")]
    Damaged {
        /// The file.
        url: String,
        /// The difference.
        difference: String,
    },
    /// A file or a tensor does not fit into the memory of this machine. The file may be whole.
    #[error("{url} cannot be read here: {reason}; use a machine with more memory, or raise its limits")]
    TooLarge {
        /// The file or the checkpoint.
        url: String,
        /// What does not fit.
        reason: String,
    },
    /// A file has a schema that this version does not support.
    #[error("{url}: {reason}")]
    Schema {
        /// The file.
        url: String,
        /// The reason.
        reason: String,
    },
    /// The given tensors are not those of the checkpoint.
    #[error("{url} does not fit: {}", problems.join("; "))]
    DoesNotFit {
        /// The checkpoint's folder.
        url: String,
        /// The first differences, and the number of the others.
        problems: Vec<String>,
    },
    /// The ranks could not communicate.
    #[error("the ranks could not agree on a checkpoint: {cause}")]
    Collective {
        /// The error of the collective.
        cause: String,
    },
}

impl Error {
    /// Returns the exit code of a run that ends with this error.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Store { .. } | Self::GivenUp { .. } => ExitCode::Store,
            Self::Collective { .. } => ExitCode::Bug,
            Self::BadReader { .. } | Self::TooLarge { .. } => ExitCode::Node,
            _ => ExitCode::Config,
        }
    }
}

impl From<admiral_storage::Error> for Error {
    fn from(error: admiral_storage::Error) -> Self {
        use admiral_storage::Error as Storage;
        match error {
            Storage::Location { url, reason } => Self::Url { url, reason },
            Storage::Variable { variable, reason } => Self::Variable { variable, reason },
            Storage::TooLarge { url, reason } => Self::TooLarge { url, reason },
            Storage::Unusable { operation, url, reason } => Self::Unusable { operation, url, reason },
            Storage::Failed { operation, url, cause } => Self::Store { operation, url, cause },
            Storage::NotFound { url, reason } => Self::NotFound { url, reason },
        }
    }
}
