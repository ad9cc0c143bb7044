//! The parts of CUDA that Admiral uses besides libtorch. The libraries are found and loaded at run time, so that
//! Admiral builds without a CUDA toolkit and runs on machines without a GPU.
//!
//! Kernels take device pointers and a stream; the caller (libtorch) owns the memory. Tests compare every kernel with a
//! float64 reference implementation. They run the kernels on a GPU if there is one, and always on the CPU, where the
//! same source is compiled as C++.

pub mod adam;
pub mod cache;
pub mod driver;
mod environment;
pub mod found;
pub mod group_norm;
pub mod hash;
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
