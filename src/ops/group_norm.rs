//! Group normalization with what follows it in a residual block.

use tch::{Kind, Tensor};

/// Group normalization, then optionally x * (1 + scale) + shift (AdaGN, the paper's section 3.1), then optionally SiLU.
///
/// `x` is [batch, channels, height, width] or [batch, channels, length] of any floating kind; `weight` and `bias` are
/// [channels]; `modulation` is (scale, shift), each [batch, channels] or that with trailing dimensions of size 1.
/// Everything is computed in float32 (float64 for float64), and the result has the kind of `x`.
#[must_use]
pub fn group_norm_silu(
    x: &Tensor,
    num_groups: i64,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    modulation: Option<(&Tensor, &Tensor)>,
    silu: bool,
) -> Tensor {
    composed(x, num_groups, weight, bias, eps, modulation, silu)
}

fn composed(
    x: &Tensor,
    num_groups: i64,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    modulation: Option<(&Tensor, &Tensor)>,
    silu: bool,
) -> Tensor {
    let kind = if x.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let mut h = x.to_kind(kind).group_norm(num_groups, Some(weight.to_kind(kind)), Some(bias.to_kind(kind)), eps, true);
    if let Some((scale, shift)) = modulation {
        let mut shape = vec![1; x.dim()];
        shape[..2].copy_from_slice(&x.size()[..2]);
        h = h * (scale.to_kind(kind).reshape(&shape) + 1) + shift.to_kind(kind).reshape(&shape);
    }
    if silu {
        h = h.silu();
    }
    h.to_kind(x.kind())
}
