//! Why an operation could not run.

use tch::TchError;

/// Why an operation could not run. All of these are mistakes of the caller or a lack of memory: none is worth a retry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor is not what the operation takes.
    #[error("{operation}: `{tensor}` is {found}, but must be {expected}")]
    Unsuitable {
        /// The operation that refused.
        operation: &'static str,
        /// Which of its tensors.
        tensor: &'static str,
        /// Kind, shape, layout or device as found.
        found: String,
        /// What would have been right.
        expected: String,
    },
    /// libtorch refused.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
    /// A kernel was not launched on a GPU, or the GPU failed.
    #[error(transparent)]
    Gpu(Box<admiral_gpu::Error>),
    /// The C++ bridge caught an exception.
    #[error("{operation}: {message}")]
    Bridge {
        /// The operation that failed.
        operation: &'static str,
        /// What the exception said.
        message: String,
    },
}

impl From<admiral_gpu::Error> for Error {
    fn from(error: admiral_gpu::Error) -> Self {
        Self::Gpu(Box::new(error))
    }
}
