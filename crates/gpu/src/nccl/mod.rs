//! NCCL, loaded at run time: collectives between GPUs on the caller's memory and streams.
//!
//! A communicator starts without blocking and is polled, so that a peer that never comes is an error with a name and
//! not a process that hangs. What is enqueued runs on the GPU; [`Communicator::poll`] says whether a peer was lost.

mod api;
mod communicator;
mod error;

pub use api::{Nccl, UniqueId};
pub use communicator::Communicator;
pub use error::NcclError;
