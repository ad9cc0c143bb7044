//! Operations that libtorch does not have, or that are faster when fused. Each is a Rust function that receives the
//! [`Kernels`] of its device. The C++ code is in `cpp/`, the CUDA code in the package `admiral-gpu`.

mod adam;
mod attention;
pub mod bridge;
mod convolution;
mod dropout;
mod error;
mod group_norm;
mod group_norm_arguments;
mod hash;
mod inference;
mod kernels;
mod launcher;
mod norms;

pub use adam::{AdamHyper, AdamSegment, adam};
pub use attention::attention;
pub use bridge::{concatenate_twice, recompute};
pub use convolution::{conv2d, conv2d_transformed, transform_weights};
pub use dropout::Dropout;
pub use error::Error;
pub use group_norm::{group_norm_is_fused, group_norm_silu};
pub use group_norm_arguments::GroupNorm;
pub use hash::hashes;
pub use inference::FixedConvolution;
pub use kernels::{KernelChoice, Kernels};
pub use norms::{norms, sum_of_squares};
