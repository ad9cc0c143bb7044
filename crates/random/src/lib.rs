//! Randomness as a function: every draw is named by (seed, stream, index), so that which sample, crop,
//! timestep or noise a run sees does not depend on the number of ranks, on threads, or on a restart.

mod permutation;
mod philox;

pub use permutation::Permutation;
pub use philox::{Philox, Stream, mix};
