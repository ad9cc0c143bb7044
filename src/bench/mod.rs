//! `admiral bench`: measures the training step, fused operations, the all-reduce, the loader, checkpoints, sampling and
//! evaluation, and the errors of samplers.

pub mod allreduce;
pub mod checkpoint;
pub mod evaluate;
mod evaluate_metrics;
pub mod loader;
pub(crate) mod loader_stages;
mod memory;
pub mod ops;
mod output;
mod roofline;
pub mod sample;
pub mod solvers;
pub mod step;
mod timing;
