//! What can be wrong with a file.

/// Why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is another kind of file.
    #[error("it is no file of torch.save and no safetensors: {0}")]
    Foreign(String),
    /// It is shorter than it says, or its parts contradict each other.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Its pickle asks for something that a state dict does not need. Nothing of it has been run.
    #[error(
        "its pickle asks for {name} at byte {position}, which no state dict needs: refused, and nothing of the file \
         has been run"
    )]
    Refused {
        /// The module and the name: `posix.system`.
        name: String,
        /// Where in the pickle, in bytes.
        position: usize,
    },
    /// Its pickle holds something else than names with tensors.
    #[error("it is no plain state dict: {0}")]
    NotAStateDict(String),
    /// PyTorch could have written it, but it is of a kind that is not read.
    #[error("{0}")]
    Unsupported(String),
    /// The tensors handed to the writer are not those that it was told of.
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
