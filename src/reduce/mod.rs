//! The sum of gradients over ranks: bucket by bucket, over MPI through host memory or by NCCL between GPUs, after
//! backward or while it runs.

mod gradients;
#[cfg(test)]
mod mock;
mod nccl;
mod own_gradients;

pub use gradients::{GradientReducer, Reduced};
pub use nccl::NcclReducer;
pub use own_gradients::OwnGradients;
