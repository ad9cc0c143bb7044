//! `admiral bench`: measurements of the training step, the fused operations, sums over ranks, the loader and
//! checkpoints.

pub mod allreduce;
pub mod checkpoint;
pub mod loader;
pub mod ops;
mod output;
mod roofline;
pub mod step;
mod timing;
