//! Admiral trains, samples and evaluates the diffusion models of *Diffusion Models Beat GANs on Image Synthesis*.
//!
//! This package links libtorch. What needs no tensors is in the packages under `crates/`. `docs/architecture.md` shows the
//! layers: a module imports only modules below it.

pub mod bench;
pub mod commands;
pub mod context;
pub mod device;
pub mod diffusion;
pub mod environment;
pub mod evaluate;
pub mod gpus;
pub mod host_gpus;
pub mod host_memory;
pub mod model;
pub mod ops;
pub mod reduce;
pub mod run_config;
pub mod sample;
mod statistics;
pub mod stop;
pub mod train;
pub mod version;

// The source of the GPU kernels runs on the CPU in the tests of `crates/gpu`, and in those of this package too.
#[cfg(test)]
#[path = "../crates/gpu/tests/gpu/support/emulator.rs"]
#[allow(dead_code, missing_docs, clippy::unwrap_used, reason = "written for the tests of another package")]
mod emulator;
