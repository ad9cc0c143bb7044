//! Random numbers as functions of (seed, stream, index).
//!
//! The samples, crops, timesteps and noise of a run therefore do not depend on the number of ranks, on threads, or on
//! restarts.

mod blocks;
mod instructions;
mod normal;
mod permutation;
mod philox;

pub use instructions::Instructions;
pub use permutation::Permutation;
pub use philox::{Philox, Stream, mix};
