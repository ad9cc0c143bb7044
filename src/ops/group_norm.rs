//! Group normalization with what follows it in a residual block.

use tch::{Device, Kind, Tensor};

use super::bridge;

/// Group normalization, then optionally x * (1 + scale) + shift (AdaGN, the paper's section 3.1), then optionally SiLU.
///
/// `x` is [batch, channels, height, width] or [batch, channels, length] of any floating kind; `weight` and `bias` are
/// [channels]; `modulation` is (scale, shift), each [batch, channels] or that with trailing dimensions of size 1.
/// Everything is computed in float32 (float64 for float64), and the result has the kind and layout of `x`.
///
/// On the CPU in float32 this is one node of the graph that keeps only `x` and the groups' statistics for backward.
/// It takes channels-last as it comes, which matters: libtorch's own kernel is many times slower there when a group
/// has few channels.
pub fn group_norm_silu(
    x: &Tensor,
    num_groups: i64,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    modulation: Option<(&Tensor, &Tensor)>,
    silu: bool,
) -> Tensor {
    let fused = |tensor: &Tensor| group_norm_is_fused(tensor.kind(), tensor.device());
    let all_fused = [x, weight, bias].into_iter().chain(modulation.into_iter().flat_map(|(a, b)| [a, b])).all(fused);
    if all_fused {
        match bridge::group_norm_silu(x, num_groups, weight, bias, eps, modulation, silu) {
            Ok(out) => return out,
            // What the bridge refuses libtorch refuses too, in tch's own way of telling.
            Err(error) => tracing::debug!(%error, "the fused group normalization gives way to libtorch's"),
        }
    }
    composed(x, num_groups, weight, bias, eps, modulation, silu)
}

/// Whether [`group_norm_silu`] is one node of the graph for values of this kind on this device. A plan of a run's memory
/// asks, for it decides what forward keeps for backward.
#[must_use]
pub fn group_norm_is_fused(kind: Kind, device: Device) -> bool {
    kind == Kind::Float && device == Device::Cpu
}

/// The same by libtorch's operations: for other kinds and devices.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Layout {
        Contiguous,
        ChannelsLast,
        /// Neither: every second column of a wider tensor.
        Strided,
    }

    fn random(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Double, Device::Cpu))
    }

    fn lay(x: &Tensor, layout: Layout) -> Tensor {
        match layout {
            Layout::Contiguous => x.contiguous(),
            Layout::ChannelsLast => x.transpose(1, -1).contiguous().transpose(1, -1),
            Layout::Strided => Tensor::stack(&[x, x], -1).flatten(-2, -1).slice(-1, 0, None, 2),
        }
    }

    /// Output and the gradients of x, weight, bias, scale, shift.
    fn run(
        f: impl Fn(&Tensor, &Tensor, &Tensor, Option<(&Tensor, &Tensor)>) -> Tensor,
        inputs: &[Tensor],
        gradient: &Tensor,
    ) -> Vec<Tensor> {
        let leaves: Vec<Tensor> = inputs.iter().map(|x| x.detach().set_requires_grad(true)).collect();
        let modulation = leaves.get(3).map(|scale| (scale, &leaves[4]));
        let out = f(&leaves[0], &leaves[1], &leaves[2], modulation);
        (&out * gradient.to_kind(out.kind())).sum(out.kind()).backward();
        let mut all = vec![out.detach()];
        all.extend(leaves.iter().map(Tensor::grad));
        all.into_iter().map(|x| x.to_kind(Kind::Double)).collect()
    }

    #[test]
    fn the_fused_node_equals_libtorch_in_double_precision_with_all_gradients() {
        tch::manual_seed(5);
        for (shape, groups) in [
            (vec![3, 6, 5, 7], 3),
            (vec![2, 64, 9, 9], 32),
            (vec![1, 96, 33, 31], 32),
            (vec![2, 1056, 3, 2], 32),
            (vec![2, 32, 1, 1], 2),
            (vec![3, 40, 70, 1], 8),
        ] {
            for modulated in [false, true] {
                for silu in [false, true] {
                    for layout in [Layout::Contiguous, Layout::ChannelsLast, Layout::Strided] {
                        let (batch, channels) = (shape[0], shape[1]);
                        // A mean far from zero would show cancellation.
                        let mut inputs = vec![random(&shape) * 2 + 3, random(&[channels]), random(&[channels])];
                        if modulated {
                            inputs.push(random(&[batch, channels]));
                            inputs.push(random(&[batch, channels, 1, 1]));
                        }
                        let gradient = random(&shape);
                        let wanted = run(|x, w, b, m| composed(x, groups, w, b, 1e-5, m, silu), &inputs, &gradient);
                        let mut single: Vec<Tensor> = inputs.iter().map(|x| x.to_kind(Kind::Float)).collect();
                        single[0] = lay(&single[0], layout);
                        let node = |x: &Tensor, w: &Tensor, b: &Tensor, m: Option<(&Tensor, &Tensor)>| {
                            bridge::group_norm_silu(x, groups, w, b, 1e-5, m, silu).unwrap()
                        };
                        let found = run(node, &single, &gradient);
                        for (i, (wanted, found)) in wanted.iter().zip(&found).enumerate() {
                            assert_eq!(wanted.size(), found.size());
                            let scale = wanted.abs().max().double_value(&[]).max(1e-3);
                            let error = (wanted - found).abs().max().double_value(&[]) / scale;
                            assert!(
                                error < 1e-5,
                                "{shape:?} modulated {modulated} silu {silu} {layout:?}, tensor {i}: {error}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn keeps_the_layout_and_takes_three_dimensions() {
        let x = (random(&[2, 8, 6]) + 1).to_kind(Kind::Float).transpose(1, 2).contiguous().transpose(1, 2);
        let (weight, bias) = (random(&[8]).to_kind(Kind::Float), random(&[8]).to_kind(Kind::Float));
        let out = group_norm_silu(&x, 4, &weight, &bias, 1e-5, None, true);
        assert_eq!(out.stride(), x.stride());
        let error = (out - composed(&x, 4, &weight, &bias, 1e-5, None, true)).abs().max().double_value(&[]);
        assert!(error < 1e-5, "{error}");
    }

    #[test]
    fn does_not_depend_on_the_number_of_threads() {
        tch::manual_seed(6);
        let inputs: Vec<Tensor> =
            [&[5, 64, 16, 16][..], &[64], &[64]].iter().map(|shape| random(shape).to_kind(Kind::Float)).collect();
        let gradient = random(&[5, 64, 16, 16]);
        let node = |x: &Tensor, w: &Tensor, b: &Tensor, m: Option<(&Tensor, &Tensor)>| {
            group_norm_silu(x, 32, w, b, 1e-5, m, true)
        };
        let threads = tch::get_num_threads();
        tch::set_num_threads(1);
        let one = run(node, &inputs, &gradient);
        tch::set_num_threads(3);
        let three = run(node, &inputs, &gradient);
        tch::set_num_threads(threads);
        for (one, three) in one.iter().zip(&three) {
            assert!(one.equal(three));
        }
    }

    #[test]
    fn what_is_not_finite_reaches_the_output() {
        let x = random(&[1, 4, 3, 3]).to_kind(Kind::Float);
        let _ = x.view([-1]).get(5).fill_(f64::NAN);
        let ones = Tensor::ones([4], (Kind::Float, Device::Cpu));
        let out = group_norm_silu(&x, 2, &ones, &ones, 1e-5, None, true);
        assert_eq!(out.isnan().sum(Kind::Int64).int64_value(&[]), 18);
    }

    #[test]
    fn the_bridge_refuses_groups_that_do_not_divide() {
        let x = Tensor::zeros([1, 5, 2, 2], (Kind::Float, Device::Cpu));
        let ones = Tensor::ones([5], (Kind::Float, Device::Cpu));
        let error = bridge::group_norm_silu(&x, 2, &ones, &ones, 1e-5, None, false).unwrap_err();
        assert!(error.to_string().contains("2 groups do not divide"), "{error}");
    }
}
