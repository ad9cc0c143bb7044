//! The sum of gradients over ranks: bucket by bucket, over MPI through host memory or by NCCL between GPUs, after
//! backward or while it runs.

mod gradients;
#[cfg(test)]
mod mock;
mod nccl;

pub use gradients::{GradientReducer, Reduced};
pub use nccl::NcclReducer;
