//! Rescaled residual connections.

use tch::Tensor;

/// Scales a residual connection, the sum of a block's input and its branch, by `1 / sqrt(2)`. The variance of the result
/// is then the mean of the variances of the two, if they are uncorrelated (Song et al. 2020, appendix H; the paper's
/// Table 1). The product is in place, because backward does not need the sum.
pub(super) fn rescale(mut sum: Tensor) -> Tensor {
    sum.g_mul_scalar_(std::f64::consts::FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::model::blocks::{self, Block, BlockSpec, Context, Layer, build_down, build_middle, build_up};
    use crate::model::layers::Builder;
    use crate::model::{AttentionOrder, ParamSpecs, Params};
    use crate::ops::Kernels;

    fn spec(rescale_residual: bool, resblock_updown: bool) -> BlockSpec {
        BlockSpec {
            model_channels: 32,
            num_res_blocks: 1,
            channel_mult: vec![1.0, 2.0],
            attention_factors: vec![2],
            num_heads: 2,
            num_head_channels: None,
            attention_order: AttentionOrder::HeadsOutside,
            dropout: 0.0,
            use_scale_shift_norm: true,
            resblock_updown,
            rescale_residual,
            use_checkpoint: false,
        }
    }

    /// The blocks of a UNet with two levels.
    struct Torso {
        down: Vec<Block>,
        middle: Block,
        up: Vec<Block>,
        specs: ParamSpecs,
    }

    impl Torso {
        fn build(spec: &BlockSpec) -> Self {
            let mut specs = ParamSpecs::default();
            let mut builder = Builder::new(&mut specs);
            let (down, widths) = build_down(&mut builder, spec, 3);
            let middle = build_middle(&mut builder, spec, 64);
            let up = build_up(&mut builder, spec, widths);
            Self { down, middle, up, specs }
        }

        fn forward(&self, context: &Context<'_>, x: &Tensor) -> Tensor {
            let mut hidden = x.shallow_clone();
            let mut skips = Vec::new();
            for block in &self.down {
                hidden = blocks::forward(block, context, &hidden);
                skips.push(hidden.shallow_clone());
            }
            hidden = blocks::forward(&self.middle, context, &hidden);
            self.up.iter().fold(hidden, |hidden, block| match skips.pop() {
                Some(skip) => blocks::forward_joined(block, context, &hidden, &skip),
                None => panic!("as many blocks up as down"),
            })
        }

        /// The same layers one by one, with a division after each that has a residual connection.
        fn forward_by_hand(&self, context: &Context<'_>, x: &Tensor) -> Tensor {
            let run = |block: &Block, x: &Tensor| {
                block.iter().fold(x.shallow_clone(), |x, layer| {
                    let out = layer.forward(context, &x);
                    if matches!(layer, Layer::Conv(..)) { out } else { out / 2f64.sqrt() }
                })
            };
            let mut hidden = x.shallow_clone();
            let mut skips = Vec::new();
            for block in &self.down {
                hidden = run(block, &hidden);
                skips.push(hidden.shallow_clone());
            }
            hidden = run(&self.middle, &hidden);
            self.up.iter().fold(hidden, |hidden, block| {
                let skip = skips.pop().unwrap_or_else(|| panic!("as many blocks up as down"));
                run(block, &Tensor::cat(&[hidden, skip], 1))
            })
        }
    }

    /// Returns the output of `forward` and the gradients of the input, the embedding and all parameters.
    fn output_and_gradients(
        forward: impl Fn(&Context<'_>, &Tensor) -> Tensor,
        [x, embedding]: [&Tensor; 2],
        params: &[Tensor],
        recomputes: bool,
    ) -> Vec<Tensor> {
        let leaf = |value: &Tensor| value.detach().copy().set_requires_grad(true);
        let (x, embedding) = (leaf(x), leaf(embedding));
        let params = Params::new(params.iter().map(leaf).collect());
        let kernels = Kernels::cpu();
        let context =
            Context { kernels: &kernels, params: &params, embedding: &embedding, dropout_seed: None, recomputes };
        let y = forward(&context, &x);
        (y.to_kind(Kind::Float).square()).mean(Kind::Float).backward();
        let gradients = [&x, &embedding].into_iter().chain(params.tensors()).map(Tensor::grad);
        std::iter::once(y.detach()).chain(gradients).map(|tensor| tensor.to_kind(Kind::Float)).collect()
    }

    #[test]
    fn output_and_gradients_match_a_division_after_each_block() {
        tch::manual_seed(21);
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (x, embedding) = (random(&[2, 3, 8, 8]), random(&[2, 128]));
        for resblock_updown in [true, false] {
            let plain = Torso::build(&spec(false, resblock_updown));
            let rescaled = Torso::build(&spec(true, resblock_updown));
            assert_eq!(plain.specs, rescaled.specs);
            let params: Vec<Tensor> = plain.specs.iter().map(|spec| random(&spec.shape) * 0.1).collect();
            for (half, recomputes) in [(false, false), (false, true), (true, false), (true, true)] {
                let kind = if half { Kind::BFloat16 } else { Kind::Float };
                let x = x.to_kind(kind);
                let convert = |(value, torso): (&Tensor, bool)| if torso { value.to_kind(kind) } else { value.copy() };
                let torso = plain.specs.iter().map(|spec| spec.torso);
                let params: Vec<Tensor> = params.iter().zip(torso).map(convert).collect();
                let inputs = [&x, &embedding];
                let by_hand = |context: &Context<'_>, x: &Tensor| plain.forward_by_hand(context, x);
                let wanted = output_and_gradients(by_hand, inputs, &params, false);
                let found = output_and_gradients(|c, x| rescaled.forward(c, x), inputs, &params, recomputes);
                let unscaled = output_and_gradients(|c, x| plain.forward(c, x), inputs, &params, recomputes);
                // The division by hand rounds to bfloat16 in another order.
                let tolerance = if half { 0.05 } else { 1e-5 };
                let norm = |tensor: &Tensor| tensor.norm().double_value(&[]);
                // The gradient of a bias before a normalization of single channels is zero, up to rounding.
                let least = 1e-2 * wanted.iter().map(norm).fold(0.0, f64::max);
                for (i, (wanted, found)) in wanted.iter().zip(&found).enumerate() {
                    let error = norm(&(wanted - found)) / norm(wanted).max(least);
                    assert!(error < tolerance, "tensor {i}, half {half}, recomputed {recomputes}: {error}");
                }
                let change = (&unscaled[0] - &found[0]).norm() / found[0].norm();
                assert!(change.double_value(&[]) > 0.3, "{change:?}");
            }
        }
    }
}
