//! Divergences and likelihoods of Gaussians over images, in bits per dimension for each sample.

use tch::{Kind, Tensor};

/// Half the distance between two levels of an 8-bit image scaled to [-1, 1].
const HALF_LEVEL: f64 = 1.0 / 255.0;

/// The lower limit of probabilities whose logarithm is taken.
const MIN_PROBABILITY: f64 = 1e-12;

/// The mean over all dimensions except the batch: `[batch, channels, height, width]` to `[batch]`.
pub(super) fn mean_flat(values: &Tensor) -> Tensor {
    values.mean_dim([1i64, 2, 3].as_slice(), false, None::<Kind>)
}

/// The divergence D(N(m1, exp(log_variance1)) || N(m2, exp(log_variance2))) in bits per dimension, `[batch]`, where
/// `squared_distance` is (m1 - m2)², `[batch, channels, height, width]`.
///
/// At the last timestep the terms cancel almost completely in float32, so their order is significant.
pub(super) fn normal_kl(log_variance1: &Tensor, log_variance2: &Tensor, squared_distance: &Tensor) -> Tensor {
    let spread = (log_variance2 - 1.0) - log_variance1 + (log_variance1 - log_variance2).exp();
    let distance = squared_distance * (-log_variance2).exp();
    mean_flat(&(spread + distance)) * (0.5 / std::f64::consts::LN_2)
}

/// The standard normal distribution function, in the tanh approximation used for published likelihoods.
fn normal_cdf(x: &Tensor) -> Tensor {
    let scale = (2.0 / std::f64::consts::PI).sqrt();
    ((x + x.pow_tensor_scalar(3.0) * 0.044_715) * scale).tanh() * 0.5 + 0.5
}

/// The negative log likelihood of an 8-bit image `x`, `[batch, channels, height, width]`, scaled to [-1, 1], in bits
/// per dimension, `[batch]`. The Gaussian is discretized: each level has the mass between the midpoints to its
/// neighbours, and the lowest and highest level also have the tails.
pub(super) fn discretized_gaussian_nll(x: &Tensor, mean: &Tensor, log_variance: &Tensor) -> Tensor {
    let distance = x - mean;
    let inverse_deviation = (log_variance * -0.5).exp();
    let above = normal_cdf(&(&inverse_deviation * (&distance + HALF_LEVEL)));
    let below = normal_cdf(&(&inverse_deviation * (&distance - HALF_LEVEL)));
    let darkest = above.clamp_min(MIN_PROBABILITY).log();
    let brightest = (-&below + 1.0).clamp_min(MIN_PROBABILITY).log();
    let between = (above - below).clamp_min(MIN_PROBABILITY).log();
    let upper = brightest.where_self(&x.gt(0.999), &between);
    let log_likelihood = darkest.where_self(&x.lt(-0.999), &upper);
    mean_flat(&log_likelihood) * (-1.0 / std::f64::consts::LN_2)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kl_is_zero_for_equal_gaussians_and_half_a_nat_at_one_deviation() {
        let log_variance = Tensor::zeros([2, 1, 1, 1], (Kind::Float, tch::Device::Cpu));
        let distance = Tensor::from_slice(&[0.0f32, 1.0]).reshape([2, 1, 1, 1]);
        let bits: Vec<f32> = normal_kl(&log_variance, &log_variance, &distance).try_into().unwrap();
        assert_eq!(bits[0], 0.0);
        assert!((f64::from(bits[1]) - 0.5 / std::f64::consts::LN_2).abs() < 1e-6);
    }

    #[test]
    fn likelihoods_of_all_levels_sum_to_one() {
        let levels = (Tensor::arange(256, (Kind::Float, tch::Device::Cpu)) / 127.5 - 1.0).reshape([256, 1, 1, 1]);
        let log_variance = Tensor::full([1, 1, 1, 1], -3.0, (Kind::Float, tch::Device::Cpu));
        let bits = discretized_gaussian_nll(&levels, &Tensor::from(0.3f32).reshape([1, 1, 1, 1]), &log_variance);
        let total = (bits * -std::f64::consts::LN_2).exp().sum(Kind::Double).double_value(&[]);
        assert!((total - 1.0).abs() < 1e-4, "{total}");
    }
}
