//! Errors of a store.

use admiral_contract::secret::masked_text;
use serde::{Deserialize, Serialize};

/// Why an operation on a store failed. It can be sent to other ranks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// The text is not a location.
    #[error("{url:?} is not a location: {reason}")]
    Location {
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
    /// The store refused or did not answer.
    #[error("cannot {operation} {url}: {cause}")]
    Failed {
        /// The operation: `write`, `read`, `list`.
        operation: String,
        /// The URL of the file or the store.
        url: String,
        /// The message of the store.
        cause: String,
    },
    /// A file does not fit into memory.
    #[error("cannot read {url}: {reason}")]
    TooLarge {
        /// The URL of the file.
        url: String,
        /// The reason.
        reason: String,
    },
    /// The location does not exist.
    #[error("nothing at {url}: {reason}")]
    NotFound {
        /// The location.
        url: String,
        /// The reason.
        reason: String,
    },
}

/// The reason of an error of a client that a retry cannot help, given by this crate.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reason(String);

/// Makes the error of a client that becomes [`Error::Unusable`].
pub(crate) fn unusable(reason: String) -> object_store::Error {
    object_store::Error::NotSupported { source: Box::new(Reason(reason)) }
}

/// Returns the reason of an error that [`unusable`] made.
pub(crate) fn reason_of(error: &object_store::Error) -> Option<&str> {
    match error {
        object_store::Error::NotSupported { source } => source.downcast_ref().map(|Reason(text)| text.as_str()),
        _ => None,
    }
}

/// Returns the message of an error and its causes, on one line and without secrets.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    // The error documents of S3 have several lines.
    masked_text(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}
