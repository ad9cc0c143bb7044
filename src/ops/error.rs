//! Errors of operations.

use tch::TchError;

/// An error of an operation. The cause is a mistake of the caller, a lack of memory or a failure of the device. A retry
/// does not help.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operation does not accept a tensor.
    #[error("{operation}: `{tensor}` is {found}, but must be {expected}")]
    Unsuitable {
        /// The name of the operation.
        operation: &'static str,
        /// The name of the tensor.
        tensor: &'static str,
        /// The kind, shape, layout or device of the tensor.
        found: String,
        /// The kind, shape, layout or device that the operation accepts.
        expected: String,
    },
    /// libtorch reported an error.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
    /// A kernel launch failed, or the GPU failed.
    #[error(transparent)]
    Gpu(Box<admiral_gpu::Error>),
    /// The C++ bridge caught an exception.
    #[error("{operation}: {message}")]
    Bridge {
        /// The name of the operation.
        operation: &'static str,
        /// The message of the exception.
        message: String,
    },
}

impl From<admiral_gpu::Error> for Error {
    fn from(error: admiral_gpu::Error) -> Self {
        Self::Gpu(Box::new(error))
    }
}
