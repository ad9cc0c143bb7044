//! The arguments of a group normalization.

use tch::Tensor;

use super::Dropout;

/// The arguments of a group normalization and the operations after it, which are applied in the order of the fields.
#[derive(Debug, Clone, Copy)]
pub struct GroupNorm<'a> {
    /// The number of groups of channels.
    pub num_groups: i64,
    /// The weight, `[channels]`.
    pub weight: &'a Tensor,
    /// The bias, `[channels]`.
    pub bias: &'a Tensor,
    /// The term that is added to the variance.
    pub eps: f64,
    /// Scale and shift, each `[batch, channels]`, optionally with trailing dimensions of size 1: x * (1 + scale) +
    /// shift (AdaGN, the paper's section 3.1).
    pub modulation: Option<(&'a Tensor, &'a Tensor)>,
    /// Whether SiLU, x * sigmoid(x), is applied.
    pub silu: bool,
    /// Dropout, if any.
    pub dropout: Option<Dropout>,
}
