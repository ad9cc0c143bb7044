//! Scaled dot-product attention.

use tch::Tensor;

/// Computes softmax(q kᵀ / sqrt(head_channels)) v. `q`, `k`, `v` and the result are `[batch, heads, length,
/// head_channels]`, and the result has the kind of `q`.
///
/// libtorch's fused attention does not save a `[length, length]` matrix for backward, so activation checkpointing is
/// not needed for it. It scales the product once; the published implementation scales `q` and `k` each by
/// head_channels^-1/4, which is equivalent. In half precision the fused kernels accumulate and compute the softmax in
/// float32.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, false, None, false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::{Device, Kind};

    use super::*;

    fn published_formula(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let scale = (q.size()[3] as f64).powf(-0.25);
        let weights = (q * scale).matmul(&(k * scale).transpose(2, 3));
        weights.softmax(-1, Kind::Double).matmul(v)
    }

    /// Returns the output and the three gradients, as float64.
    fn run(
        f: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor,
        inputs: &[Tensor; 3],
        g: &Tensor,
        kind: Kind,
    ) -> Vec<Tensor> {
        let leaves: Vec<Tensor> = inputs.iter().map(|x| x.to_kind(kind).detach().set_requires_grad(true)).collect();
        let out = f(&leaves[0], &leaves[1], &leaves[2]);
        (out.to_kind(Kind::Double) * g).sum(Kind::Double).backward();
        let mut all = vec![out.detach().to_kind(Kind::Double)];
        all.extend(leaves.iter().map(|x| x.grad().to_kind(Kind::Double)));
        all
    }

    #[test]
    fn output_and_gradients_match_the_published_formula() {
        tch::manual_seed(1);
        let random = |scale: f64| Tensor::randn([2, 3, 17, 8], (Kind::Double, Device::Cpu)) * scale;
        let inputs = [random(2.0), random(2.0), random(1.0)];
        let g = random(1.0);
        let wanted = run(published_formula, &inputs, &g, Kind::Double);
        for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5), (Kind::Half, 1e-2)] {
            for (wanted, found) in wanted.iter().zip(run(attention, &inputs, &g, kind)) {
                let error = (wanted - found).abs().max().double_value(&[]) / wanted.abs().max().double_value(&[]);
                assert!(error < tolerance, "{kind:?}: {error}");
            }
        }
    }
}
