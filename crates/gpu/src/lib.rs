//! What Admiral needs of CUDA besides libtorch, found and loaded at run time: no toolkit is needed to build it, and it
//! runs on machines without a GPU as well.
//!
//! Memory belongs to the caller (libtorch): kernels take device pointers and a stream. Every kernel is held to a plain
//! float64 twin, on a GPU where there is one, and by running its own text on the CPU where there is none.

pub mod adam;
pub mod cache;
pub mod driver;
mod environment;
pub mod found;
pub mod group_norm;
pub mod kernels;
mod kind;
mod launch;
pub mod library;
pub mod nccl;
pub mod norms;
pub mod nvrtc;
mod program;
mod shape;

pub use environment::GpuEnvironment;
pub use kind::Kind;
pub use launch::{Error, Launch};
pub use program::Program;
pub use shape::{DevicePointer, Shape};
