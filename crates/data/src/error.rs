//! What can be wrong with data.

/// Why images cannot be had. All of these end a run with the exit code of wrong configuration or data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("{path}: {reason}; check `{field}`")]
    Unreadable {
        /// The file or folder.
        path: String,
        /// What the system says.
        reason: String,
        /// The field of the configuration that names it.
        field: &'static str,
    },
    /// There is nothing to read.
    #[error("{path} holds no {what}; check `{field}`")]
    Empty {
        /// The file or folder.
        path: String,
        /// What was looked for.
        what: &'static str,
        /// The field of the configuration that names it.
        field: &'static str,
    },
    /// A file is not what its name or its header says.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An image cannot be decoded.
    #[error("{path} cannot be decoded: {reason}; repair or remove it, or set `data.on_broken_image: skip`")]
    Broken {
        /// The image.
        path: String,
        /// What the decoder says.
        reason: String,
    },
    /// Image after image cannot be decoded.
    #[error("{attempts} images one after another cannot be decoded, the last of them {path}: {reason}")]
    AllBroken {
        /// How many were tried.
        attempts: u64,
        /// The last one.
        path: String,
        /// What the decoder says of it.
        reason: String,
    },
    /// The threads that read images have ended.
    #[error("the loader has ended: {0}")]
    Ended(String),
}
