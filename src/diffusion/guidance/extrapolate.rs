//! The step that classifier-free guidance and autoguidance share.

use tch::Tensor;

use super::super::process::Model;

/// Runs two networks on x_t, `[batch, channels, height, width]`, and returns `good + weight * (good - weak)` for the
/// predictions, which are the first `channels` of both outputs. The variance, if the network outputs one, is that of
/// `good`. A `weight` of 0 needs no call of `weak`.
///
/// A network predicts ε, x_0 or the mean of x_{t-1}. For a given x_t these are affine functions of each other, and the
/// weights of the two outputs sum to 1, so it does not matter which is combined.
///
/// The networks run one after the other. Each then has the batch that it has without guidance, and `good` its bits.
pub(super) fn extrapolate(good: &Model, weak: &Model, weight: f64, x_t: &Tensor, timesteps: &Tensor) -> Tensor {
    let output = good(x_t, timesteps);
    if weight == 0.0 {
        return output;
    }
    let channels = x_t.size()[1];
    let prediction = output.narrow(1, 0, channels);
    let weak = weak(x_t, timesteps).narrow(1, 0, channels);
    let guided = (&prediction - weak) * weight + &prediction;
    match output.size()[1] - channels {
        0 => guided,
        variance => Tensor::cat(&[guided, output.narrow(1, channels, variance)], 1),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::diffusion::test_noise::normal;

    #[test]
    fn predictions_are_combined_and_the_variance_is_that_of_the_good_network() {
        let (x, t) = (normal(1, &[2, 3, 4, 4]), Tensor::from_slice(&[5.0f32, 7.0]));
        let good = |x: &Tensor, _: &Tensor| Tensor::cat(&[x * 3.0, x * 10.0], 1);
        let weak = |x: &Tensor, t: &Tensor| Tensor::cat(&[x * t.view([-1, 1, 1, 1]), x * 20.0], 1);
        let output = extrapolate(&good, &weak, 0.5, &x, &t);
        let weak = &x * t.view([-1, 1, 1, 1]);
        assert!(output.narrow(1, 0, 3).allclose(&(&x * 4.5 - weak * 0.5), 1e-5, 1e-5, false));
        assert!(output.narrow(1, 3, 3).equal(&(&x * 10.0)));
        let plain = extrapolate(&|x, _| x * 3.0, &|x, _| x * 1.0, 2.0, &x, &t);
        assert!(plain.allclose(&(&x * 7.0), 1e-5, 1e-5, false));
    }

    #[test]
    fn without_weight_the_weak_network_is_not_called() {
        let (x, t) = (normal(1, &[2, 3, 4, 4]), Tensor::from_slice(&[5.0f32, 7.0]));
        let output = extrapolate(&|x, _| x * 3.0, &|_, _| panic!("called"), 0.0, &x, &t);
        assert!(output.equal(&(&x * 3.0)));
    }
}
