//! The Rust side of the C++ bridge: functions of libtorch that tch does not have. The bridge catches C++ exceptions and
//! returns them as [`Error::Bridge`].

mod concatenate;
mod convolve;
mod cpu_kernels;
mod gradients;
mod group_norm;
mod group_norm_gpu;
mod hooks;
mod libtorch;
mod packed_convolution;
mod profile;
mod recompute;
mod status;

pub use concatenate::concatenate_twice;
pub(super) use convolve::{can_convolve, convolve, convolve_transformed, transform_weights, uses_winograd};
pub use cpu_kernels::instruction_set;
pub(super) use cpu_kernels::{AdamMemory, Average, adam, kernel_kind, sum_of_squares};
pub use gradients::{gradients, set_gradient};
pub(super) use group_norm::group_norm_silu;
pub(super) use group_norm_gpu::group_norm_gpu;
pub use hooks::{on_gradient, watch_gradient};
pub use libtorch::{allow_tf32, current_stream, torch_built_with, torch_fused_adamw, torch_loaded};
pub(super) use packed_convolution::{convolve_packed, pack_convolution};
pub use profile::{Calls, profile};
pub use recompute::recompute;
