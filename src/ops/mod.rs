//! Operations that libtorch lacks or that Admiral fuses: one Rust face each.

mod adam;
mod attention;
pub mod bridge;
mod convolution;
mod dropout;
mod group_norm;
pub mod host_memory;
mod machine;
mod norms;

pub use adam::{AdamHyper, AdamSegment, adam};
pub use attention::attention;
pub use bridge::{concatenate_twice, recompute};
pub use convolution::conv2d;
pub use dropout::Dropout;
pub use group_norm::{GroupNorm, group_norm_is_fused, group_norm_silu};
pub use machine::{KernelChoice, is_fused, kernel_choice, likes_channels_last, set_fused};
pub use norms::{norms, sum_of_squares};

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
