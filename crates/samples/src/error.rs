//! Errors of writing and reading samples.

use std::fmt;

use admiral_contract::ExitCode;
use serde::{Deserialize, Serialize};

/// A setting that a job in the store and this job do not share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The name of the setting. The name of a nested one has dots, for example `guidance.scale`.
    pub field: String,
    /// Its value in the store as JSON. `None` if the job there does not have it.
    pub there: Option<String>,
    /// Its value in this job as JSON. `None` if this job does not have it.
    pub here: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".into());
        write!(f, "{}: {} there, {} here", self.field, shown(&self.there), shown(&self.here))
    }
}

/// Returns one line for each difference.
fn lines(differences: &[Difference]) -> String {
    differences.iter().map(|difference| format!("\n  {difference}")).collect()
}

/// Why samples could not be written or read.
///
/// Errors can be sent to other ranks, so that all of them end with the same one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// The text is not a location.
    #[error("{url:?} is not a location for samples: {reason}")]
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
    /// There is no such location, or no job in it.
    #[error("no samples at {url}: {reason}")]
    NotFound {
        /// The location.
        url: String,
        /// The reason, and what was looked for.
        reason: String,
    },
    /// A file does not fit into the memory of this machine. The file may be whole.
    #[error("{url} cannot be read here: {reason}; use a machine with more memory, or raise its limits")]
    TooLarge {
        /// The file.
        url: String,
        /// What does not fit.
        reason: String,
    },
    /// The settings of a job contradict each other or exceed a limit.
    #[error("a job with these settings cannot be run: {reason}")]
    Settings {
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A job with other settings writes to the location.
    #[error(
        "{url} holds the samples of a job with other settings; give this one a new location, or the settings of that \
         one:{}",
        lines(differences)
    )]
    OtherJob {
        /// The location.
        url: String,
        /// The settings that differ.
        differences: Vec<Difference>,
    },
    /// The location holds files, but no job.
    #[error("{url} is not empty and holds no sampling job (found: {found}); give the job a new location")]
    Occupied {
        /// The location.
        url: String,
        /// The first names.
        found: String,
    },
    /// A description of a job or of a part cannot be read by this version.
    #[error("{url}: {reason}")]
    Schema {
        /// The file.
        url: String,
        /// The reason, and what to do.
        reason: String,
    },
    /// The given images are not those of the part.
    #[error("part {part} cannot be written: {reason}")]
    Part {
        /// The number of the part.
        part: u64,
        /// The reason.
        reason: String,
    },
    /// A part was drawn a second time, with other bytes. The published part is kept.
    #[error(
        "{url} is already published with other bytes: the same images were drawn twice, with different results, so they \
         depend on something that the settings of the job do not name, for example the kind of GPU; the published ones \
         were kept"
    )]
    DifferentBytes {
        /// The published part.
        url: String,
    },
    /// A part differs from its record. It was withdrawn and counts as missing.
    #[error("{url} is damaged: {difference}; start the job again, which draws these images again")]
    Damaged {
        /// The part.
        url: String,
        /// The difference.
        difference: String,
    },
    /// Not all parts of the job are there.
    #[error("{url} is incomplete: {missing} of {num_parts} parts are missing, first part {first}; start the job again")]
    Incomplete {
        /// The location.
        url: String,
        /// The number of missing parts.
        missing: u64,
        /// The number of parts.
        num_parts: u64,
        /// The first missing part.
        first: u64,
    },
    /// A file is not an npz file with the expected array.
    #[error("{file}: {reason}")]
    Npz {
        /// The file.
        file: String,
        /// What was found and what is expected.
        reason: String,
    },
    /// A file is not a file of latents.
    #[error("{file}: {reason}")]
    Latents {
        /// The file.
        file: String,
        /// What was found and what is expected.
        reason: String,
    },
    /// An npz file has no array with labels.
    #[error("{file} has no array {key:?} with labels; it has: {found}")]
    NoLabels {
        /// The file.
        file: String,
        /// The name of the array.
        key: String,
        /// The names of its arrays.
        found: String,
    },
    /// An image cannot be represented as PNG.
    #[error("a PNG of {shape:?} (height, width, channels) cannot be made: {reason}")]
    Png {
        /// Height, width and channels.
        shape: [usize; 3],
        /// The reason.
        reason: String,
    },
}

impl Error {
    /// Returns the exit code of a command that ends with this error.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Store { .. } | Self::Damaged { .. } => ExitCode::Store,
            Self::TooLarge { .. } => ExitCode::Node,
            Self::Part { .. } => ExitCode::Bug,
            _ => ExitCode::Config,
        }
    }
}

impl From<admiral_npz::Error> for Error {
    fn from(error: admiral_npz::Error) -> Self {
        match error {
            admiral_npz::Error::File { file, reason } => Self::Npz { file, reason },
            admiral_npz::Error::NoLabels { file, key, found } => Self::NoLabels { file, key, found },
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
