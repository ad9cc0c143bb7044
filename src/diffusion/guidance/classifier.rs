//! Classifier guidance (the paper's section 4), and guidance between two classes (appendix F).

use tch::{Kind, Tensor};

use super::super::process::Model;
use super::interpolate::arc;

/// The gradient that guides a step: a function of x_t `[batch, channels, height, width]` and the timesteps in the
/// network's scale (`[batch]`, float32). The result is ∇ log p(y | x_t) times the guidance scale, of the shape of x_t.
pub type Gradient<'a> = dyn Fn(&Tensor, &Tensor) -> Tensor + 'a;

/// Returns `scale` times ∇ log p(label | x_t), of the shape of `x_t`. `classifier` maps (x_t, timesteps) to logits
/// `[batch, classes]`; `labels` is `[batch]`, int64. Works even if the caller has disabled gradients.
///
/// Only the gradient for `x_t` is computed, even if the classifier's parameters require gradients.
pub fn classifier_gradient(
    classifier: &Model,
    labels: &Tensor,
    scale: f64,
    x_t: &Tensor,
    timesteps: &Tensor,
) -> Tensor {
    gradient(classifier, x_t, timesteps, |log_probabilities| of_labels(log_probabilities, labels)) * scale
}

/// Returns `scale` times the gradient of cos(θ) log p(a | x_t) + sin(θ) log p(b | x_t), of the shape of `x_t`.
///
/// `labels` are a and b, each `[batch]`, int64. `thetas` has the angle of each image, and with it the image's place
/// between its two classes, as in [`interpolate`](super::interpolate). All else is as in [`classifier_gradient`].
pub fn interpolated_classifier_gradient(
    classifier: &Model,
    labels: [&Tensor; 2],
    thetas: &[f64],
    scale: f64,
    x_t: &Tensor,
    timesteps: &Tensor,
) -> Tensor {
    let [cosine, sine] = arc(thetas, x_t.device());
    let score = |log_probabilities: &Tensor| {
        let [a, b] = labels.map(|labels| of_labels(log_probabilities, labels));
        cosine * a + sine * b
    };
    gradient(classifier, x_t, timesteps, score) * scale
}

/// Returns the log probability of each image's label, `[batch]`.
fn of_labels(log_probabilities: &Tensor, labels: &Tensor) -> Tensor {
    log_probabilities.gather(1, &labels.unsqueeze(1), false).squeeze_dim(1)
}

/// Returns the gradient for x_t of the sum of `score`, a function of the log probabilities `[batch, classes]` that
/// returns `[batch]`. An image's score depends on this image only, so each gradient is that of its own score.
fn gradient(classifier: &Model, x_t: &Tensor, timesteps: &Tensor, score: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
    tch::with_grad(|| {
        let x_t = x_t.detach().set_requires_grad(true);
        let log_probabilities = classifier(&x_t, timesteps).log_softmax(-1, Kind::Float);
        let sum = score(&log_probabilities).sum(Kind::Float);
        // With its inputs named, backward skips what only leads to parameters, and frees the graph.
        let [gradient]: [Tensor; 1] =
            Tensor::run_backward(&[sum], &[x_t], false, false).try_into().expect("one gradient for one input");
        gradient
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::f64::consts::FRAC_PI_6;

    use super::*;
    use tch::Device;

    #[test]
    fn the_gradient_is_correct_even_without_grad_mode() {
        let _no_grad = tch::no_grad_guard();
        let x_t = Tensor::zeros([2, 1, 1, 2], (Kind::Float, Device::Cpu));
        // The logits are the two pixels: at 0 each class has probability 1/2.
        let classifier = |x: &Tensor, _: &Tensor| x.flatten(1, -1);
        let labels = Tensor::from_slice(&[0i64, 1]);
        let gradient = classifier_gradient(&classifier, &labels, 4.0, &x_t, &labels);
        let values: Vec<f32> = gradient.flatten(0, -1).try_into().unwrap();
        assert_eq!(values, [2.0, -2.0, -2.0, 2.0]);
        assert!(!gradient.requires_grad());
    }

    #[test]
    fn parameters_get_no_gradient() {
        let x_t = Tensor::ones([2, 1, 1, 2], (Kind::Float, Device::Cpu));
        let weight = Tensor::from_slice(&[1.0f32, 2.0]).set_requires_grad(true);
        let classifier = |x: &Tensor, _: &Tensor| x.flatten(1, -1) * &weight;
        let labels = Tensor::from_slice(&[0i64, 1]);
        let gradient = classifier_gradient(&classifier, &labels, 1.0, &x_t, &labels);
        assert!(gradient.abs().min().double_value(&[]) > 0.0);
        assert!(!weight.grad().defined());
    }

    #[test]
    fn between_two_classes_the_gradients_are_weighted_for_each_image() {
        let x_t = Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.25, 0.0, 1.0]).view([2, 3, 1, 1]);
        let classifier = |x: &Tensor, _: &Tensor| x.flatten(1, -1);
        let (a, b) = (Tensor::from_slice(&[0i64, 1]), Tensor::from_slice(&[2i64, 0]));
        let thetas = [0.0, FRAC_PI_6];
        let both = interpolated_classifier_gradient(&classifier, [&a, &b], &thetas, 3.0, &x_t, &a);
        let [of_a, of_b] = [&a, &b].map(|labels| classifier_gradient(&classifier, labels, 3.0, &x_t, &a));
        assert!(both.get(0).allclose(&of_a.get(0), 1e-6, 1e-6, false));
        let weighted = of_a.get(1) * FRAC_PI_6.cos() + of_b.get(1) * FRAC_PI_6.sin();
        assert!(both.get(1).allclose(&weighted, 1e-6, 1e-6, false));
    }
}
