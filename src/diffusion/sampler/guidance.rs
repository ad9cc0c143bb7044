//! Classifier guidance (the paper's section 4): which way makes a class more likely.

use tch::{Kind, Tensor};

use super::super::process::Model;

/// The gradient that guides a step: x_t `[batch, channels, height, width]` and the timesteps as networks want them
/// (`[batch]`, float32, those of the full process) to ∇ log p(y | x_t), scaled, of x_t's shape.
pub type Gradient<'a> = dyn Fn(&Tensor, &Tensor) -> Tensor + 'a;

/// `scale` times ∇ log p(label | x_t) of a classifier that maps (x_t, timesteps) to logits `[batch, classes]`.
///
/// `labels` is `[batch]`, int64. Works also where the caller has turned gradients off.
pub fn classifier_gradient(
    classifier: &Model,
    labels: &Tensor,
    scale: f64,
    x_t: &Tensor,
    timesteps: &Tensor,
) -> Tensor {
    tch::with_grad(|| {
        let x_t = x_t.detach().set_requires_grad(true);
        let log_probabilities = classifier(&x_t, timesteps).log_softmax(-1, Kind::Float);
        let selected = log_probabilities.gather(1, &labels.unsqueeze(1), false).sum(Kind::Float);
        let [gradient]: [Tensor; 1] =
            Tensor::run_backward(&[selected], &[x_t], false, false).try_into().expect("one input, one gradient");
        gradient * scale
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::Device;

    #[test]
    fn the_gradient_is_that_of_the_label_also_without_grad_mode() {
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
}
