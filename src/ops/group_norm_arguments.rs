//! The arguments of a group normalization.

use tch::Tensor;

use super::Dropout;

/// A group normalization and what follows it.
#[derive(Debug, Clone, Copy)]
pub struct GroupNorm<'a> {
    /// Groups of channels.
    pub num_groups: i64,
    /// [channels].
    pub weight: &'a Tensor,
    /// [channels].
    pub bias: &'a Tensor,
    /// Added to the variance.
    pub eps: f64,
    /// (scale, shift), each [batch, channels] or that with trailing dimensions of size 1: x * (1 + scale) + shift
    /// (AdaGN, the paper's section 3.1).
    pub modulation: Option<(&'a Tensor, &'a Tensor)>,
    /// x * sigmoid(x) after that.
    pub silu: bool,
    /// Dropout at the end.
    pub dropout: Option<Dropout>,
}
