//! Group normalization with what follows it in a residual block, forward and backward.
//!
//! ```text
//! normalized = (x - mean) * rstd                          over each (sample, group)
//! y = dropout(silu((normalized * weight + bias) * (1 + scale) + shift))
//! ```

mod passes;
mod spec;
mod tiling;

pub use passes::{Backward, Forward};
pub use spec::{Activation, Dropout, GroupNorm, Layout};
