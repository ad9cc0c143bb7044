//! One evaluation of the network at a noise level: ε and x_0 after guidance and thresholding.

use tch::Tensor;

use super::super::config::Prediction;
use super::levels::Level;
use super::options::{DynamicThresholding, Settings, Thresholding};
use super::solver::GuidedModel;
use super::update::Interpolated;

/// What the network predicts at a state, both `[batch, channels, height, width]`.
pub(super) struct Estimate {
    /// The noise. With the state it gives `x_start`.
    pub(super) epsilon: Tensor,
    /// The clean image.
    pub(super) x_start: Tensor,
}

impl Interpolated {
    /// The output of an evaluation, of which it is a part.
    pub(super) fn of(self, estimate: &Estimate) -> Tensor {
        match self {
            Self::Data => estimate.x_start.shallow_clone(),
            Self::Noise => estimate.epsilon.shallow_clone(),
        }
    }
}

/// Evaluates networks at any noise level.
#[derive(Debug)]
pub(super) struct Evaluator {
    prediction: Prediction,
    thresholding: Thresholding,
    epsilon_temperature: f64,
}

impl Evaluator {
    /// An evaluator for the options and the process.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            prediction: settings.process.predict,
            thresholding: settings.options.thresholding(),
            epsilon_temperature: settings.options.epsilon_temperature,
        }
    }

    /// Runs the network on the state `x`. The variance channels of the output are dropped.
    ///
    /// Guidance shifts ε by -sigma times the gradient (the paper's algorithm 2). x_0 is thresholded after it.
    pub(super) fn evaluate(&self, model: &GuidedModel, x: &Tensor, level: &Level) -> Estimate {
        let Level { alpha, sigma, .. } = *level;
        let timesteps = Tensor::full([x.size()[0]], level.model_timestep, (x.kind(), x.device()));
        let output = (model.predict)(x, &timesteps).narrow(1, 0, x.size()[1]);
        let to_epsilon = |x_start: &Tensor| (x - x_start * alpha) / sigma;
        let to_x_start = |epsilon: &Tensor| (x - epsilon * sigma) / alpha;
        let mut estimate = match self.prediction {
            // A network's own x_0 is not computed back from ε: that loses digits where alpha is small.
            Prediction::XStart => Estimate { epsilon: to_epsilon(&output), x_start: output },
            Prediction::Epsilon => Estimate { x_start: to_x_start(&output), epsilon: output },
            Prediction::PreviousX => unreachable!("solvers at any noise level refuse networks that predict previous_x"),
        };
        if self.epsilon_temperature != 1.0 {
            let epsilon = estimate.epsilon / self.epsilon_temperature;
            estimate = Estimate { x_start: to_x_start(&epsilon), epsilon };
        }
        if let Some(gradient) = model.gradient {
            let epsilon = estimate.epsilon - gradient(x, &timesteps) * sigma;
            estimate = Estimate { x_start: to_x_start(&epsilon), epsilon };
        }
        if self.thresholding != Thresholding::None {
            let x_start = self.thresholding.apply(&estimate.x_start);
            estimate = Estimate { epsilon: to_epsilon(&x_start), x_start };
        }
        estimate
    }
}

impl Thresholding {
    /// Limits x_0, `[batch, channels, height, width]`.
    fn apply(self, x_start: &Tensor) -> Tensor {
        match self {
            Self::None => x_start.shallow_clone(),
            Self::Static => x_start.clamp(-1.0, 1.0),
            Self::Dynamic(DynamicThresholding { quantile, max }) => {
                let limit = largest_values(x_start, quantile).clamp_min(max).view([-1, 1, 1, 1]);
                x_start.minimum(&limit).maximum(&-&limit) / limit
            }
        }
    }
}

/// The quantile of the absolute values of each image, `[batch]`, linear between order statistics.
fn largest_values(images: &Tensor, quantile: f64) -> Tensor {
    let values = images.abs().flatten(1, -1);
    let position = quantile * (values.size()[1] - 1) as f64;
    // Only the values from the quantile up are sorted.
    let count = values.size()[1] - position as i64;
    let (largest, _) = values.topk(count, 1, true, true);
    let (below, above) = (largest.select(1, count - 1), largest.select(1, (count - 2).max(0)));
    below.lerp(&above, position.fract())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn quantiles_lie_between_order_statistics() {
        let images = Tensor::from_slice(&[3.0f32, -1.0, 0.0, 2.0, 8.0, 4.0, -8.0, 4.0]).view([2, 1, 2, 2]);
        let quantiles = |q: f64| Vec::<f32>::try_from(largest_values(&images, q)).unwrap();
        assert_eq!(quantiles(1.0), [3.0, 8.0]);
        assert_eq!(quantiles(0.0), [0.0, 4.0]);
        assert_eq!(quantiles(0.5), [1.5, 6.0]);
        let random = Tensor::arange(3000, (Kind::Double, Device::Cpu)).sin().view([3, 1, 20, 50]);
        let expected = random.abs().flatten(1, -1).quantile_scalar(0.995, 1, false, "linear");
        assert!(largest_values(&random, 0.995).allclose(&expected, 1e-12, 1e-12, false));
    }

    #[test]
    fn dynamic_thresholds_scale_only_images_beyond_the_maximum() {
        let images = Tensor::from_slice(&[4.0f32, -2.0, 0.5, -0.25]).view([2, 1, 1, 2]);
        let limited = Thresholding::Dynamic(DynamicThresholding { quantile: 1.0, max: 1.0 }).apply(&images);
        assert_eq!(Vec::<f32>::try_from(limited.flatten(0, -1)).unwrap(), [1.0, -0.5, 0.5, -0.25]);
        let clamped = Thresholding::Static.apply(&images);
        assert_eq!(Vec::<f32>::try_from(clamped.flatten(0, -1)).unwrap(), [1.0, -1.0, 0.5, -0.25]);
    }
}
