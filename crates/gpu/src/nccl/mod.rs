//! NCCL: collectives between GPUs, on the memory and streams of the caller.
//!
//! A communicator is created without blocking and polled, so that a peer that never joins causes an error instead of a
//! hang. Collectives run asynchronously on the GPU; [`Communicator::poll`] reports the loss of a peer.

mod api;
mod communicator;
mod error;

pub use api::{Nccl, UniqueId};
pub use communicator::Communicator;
pub use error::NcclError;
