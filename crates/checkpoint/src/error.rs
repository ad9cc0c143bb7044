//! What goes wrong with checkpoints, split by what the caller does about it.

use serde::{Deserialize, Serialize};

use admiral_comm::ExitCode;

/// Why a checkpoint could not be written or read.
///
/// It can be sent to other ranks, so that all of them end with the same error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// What the user gave names no place.
    #[error("{url:?} is not a place for checkpoints: {reason}")]
    Url {
        /// The text.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store refused or did not answer.
    #[error("cannot {operation} {url}: {cause}")]
    Store {
        /// What was tried: `write`, `read`, `list`.
        operation: String,
        /// The whole address.
        url: String,
        /// What the store said.
        cause: String,
    },
    /// There is no checkpoint where one was looked for.
    #[error("no checkpoint at {url}: {reason}")]
    NotFound {
        /// The place.
        url: String,
        /// What was looked for.
        reason: String,
    },
    /// The step is published already, and a published checkpoint is never written again.
    #[error(
        "{url} is already published by {by}; resume from it, or give this run another run.folder or checkpoint.url"
    )]
    AlreadyPublished {
        /// The checkpoint's folder.
        url: String,
        /// The run that wrote it.
        by: String,
    },
    /// Another run writes to the same place.
    #[error(
        "{by} writes its checkpoints to {url}; two runs cannot share a place: stop that one, or give this run another \
         run.folder or checkpoint.url"
    )]
    Owned {
        /// The place.
        url: String,
        /// The run that has it.
        by: String,
    },
    /// A file is whole for one rank and damaged for another.
    #[error("rank {rank} finds it whole, so a host's memory, disk or network damages what it reads: {error}")]
    BadReader {
        /// The rank that reads it well.
        rank: usize,
        /// What another has read.
        error: String,
    },
    /// Saves failed again and again.
    #[error("{count} saves have failed in a row, as many as checkpoint.max_failures allows; the last: {last}")]
    GivenUp {
        /// How many.
        count: u64,
        /// The last failure.
        last: String,
    },
    /// A file is not what was written.
    #[error("the checkpoint is damaged: {url}: {difference}; resume from an earlier step")]
    Damaged {
        /// The file.
        url: String,
        /// What differs.
        difference: String,
    },
    /// The checkpoint is of a form that this version does not know.
    #[error("{url}: {reason}")]
    Schema {
        /// The manifest.
        url: String,
        /// What is not understood.
        reason: String,
    },
    /// The tensors asked for or given are not those of the checkpoint.
    #[error("{url} does not fit: {}", problems.join("; "))]
    DoesNotFit {
        /// The checkpoint's folder.
        url: String,
        /// The first few differences.
        problems: Vec<String>,
    },
    /// The ranks could not talk to each other.
    #[error("the ranks could not agree on a checkpoint: {cause}")]
    Collective {
        /// What the collective said.
        cause: String,
    },
}

impl Error {
    /// The exit code of a run that ends with this error.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Store { .. } | Self::GivenUp { .. } => ExitCode::Store,
            Self::Collective { .. } => ExitCode::Bug,
            Self::BadReader { .. } => ExitCode::Node,
            _ => ExitCode::Config,
        }
    }
}

impl From<admiral_storage::Error> for Error {
    fn from(error: admiral_storage::Error) -> Self {
        use admiral_storage::Error as Storage;
        match error {
            Storage::Location { url, reason } => Self::Url { url, reason },
            Storage::Failed { operation, url, cause } => Self::Store { operation, url, cause },
            Storage::NotFound { url, reason } => Self::NotFound { url, reason },
        }
    }
}
