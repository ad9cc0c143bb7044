//! Group normalization with the modulation, activation and dropout after it in a residual block, forward and backward.
//!
//! ```text
//! normalized = (x - mean) * rstd                          for each (sample, group)
//! y = dropout(silu((normalized * weight + bias) * (1 + scale) + shift))
//! ```

mod passes;
mod spec;
mod tiling;

pub use passes::{Backward, Forward};
pub use spec::{Activation, Dropout, GroupNorm, Layout};
