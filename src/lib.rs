//! Admiral trains, samples and evaluates the diffusion models of *Diffusion Models Beat GANs on Image Synthesis*.
//!
//! `docs/architecture.md` shows the layers: a module imports only modules below it in this list.

pub mod checkpoint;
pub mod collective;
pub mod config;
pub mod cuda;
pub mod data;
pub mod device;
pub mod diffusion;
pub mod evaluate;
pub mod exit;
pub mod faults;
pub mod ledger;
pub mod model;
pub mod ops;
pub mod random;
pub mod sample;
pub mod telemetry;
pub mod tools;
pub mod train;
pub mod version;

// The text of a GPU's kernels runs on the CPU in the tests of `gpu`, and in those of this package too.
#[cfg(test)]
#[path = "../crates/gpu/tests/support/emulator.rs"]
#[allow(dead_code, missing_docs, clippy::unwrap_used, reason = "written for the tests of another package")]
mod emulator;
