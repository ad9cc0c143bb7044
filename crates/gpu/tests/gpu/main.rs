//! Tests of the kernels and of the bindings to CUDA's driver, compiler and NCCL, in one program: a change is linked once,
//! and tests that wait run beside tests that compute.
#![allow(clippy::unwrap_used)]

mod compile;
mod driver;
mod emulator;
mod flat;
mod group_norm;
mod nccl;
mod support;
