//! Errors of reading and writing files.

/// The reason why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation of the file system failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file has another format.
    #[error("it is no file of torch.save and no safetensors: {0}")]
    Foreign(String),
    /// The file is truncated, a checksum differs, or its parts contradict each other.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The pickle uses a name or an operation that a state dict does not need. Nothing of it was executed.
    #[error(
        "its pickle asks for {name} at byte {position}, which no state dict needs: refused, and nothing of the file \
         has been run"
    )]
    Refused {
        /// The name with its module: `posix.system`.
        name: String,
        /// The offset in the pickle, in bytes.
        position: usize,
    },
    /// The pickle holds something else than names with tensors.
    #[error("it is no plain state dict: {0}")]
    NotAStateDict(String),
    /// PyTorch can write such a file, but this package does not read it.
    #[error("{0}")]
    Unsupported(String),
    /// The tensors passed to the writer differ from those that were announced.
    #[error("{0}")]
    Write(String),
}

impl Error {
    pub(crate) fn damaged<T>(message: impl Into<String>) -> Result<T, Self> {
        Err(Self::Damaged(message.into()))
    }

    pub(crate) fn unsupported<T>(message: impl Into<String>) -> Result<T, Self> {
        Err(Self::Unsupported(message.into()))
    }
}
