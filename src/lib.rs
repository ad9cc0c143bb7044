//! Admiral trains, samples and evaluates the diffusion models of *Diffusion Models Beat GANs on Image Synthesis*.
//!
//! `docs/architecture.md` shows the layers: a module imports only modules below it in this list.

pub mod train;
pub mod sample;
pub mod evaluate;
pub mod checkpoint;
pub mod data;
pub mod telemetry;
pub mod diffusion;
pub mod model;
pub mod ops;
pub mod collective;
pub mod random;
pub mod config;
pub mod exit;
