//! What goes wrong with a store, by what the caller does about it.

use serde::{Deserialize, Serialize};

/// Why an operation on a store failed. It can be sent to other ranks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// The text is not a location.
    #[error("{url:?} is not a location: {reason}")]
    Location {
        /// The text.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store refused or did not answer.
    #[error("cannot {operation} {url}: {cause}")]
    Failed {
        /// What was tried: `write`, `read`, `list`.
        operation: String,
        /// The whole address.
        url: String,
        /// What the store said.
        cause: String,
    },
    /// There is nothing at the location.
    #[error("nothing at {url}: {reason}")]
    NotFound {
        /// The location.
        url: String,
        /// What was looked for.
        reason: String,
    },
}

/// An error with its causes, on one line.
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
    // S3 answers with a document of several lines.
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
