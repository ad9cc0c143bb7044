//! Classifier guidance (the paper's section 4).

use tch::{Kind, Tensor};

use super::super::process::Model;

/// The gradient that guides a step: a function of x_t `[batch, channels, height, width]` and the timesteps in the
/// network's scale (`[batch]`, float32). The result is ∇ log p(y | x_t) times the guidance scale, of the shape of x_t.
pub type Gradient<'a> = dyn Fn(&Tensor, &Tensor) -> Tensor + 'a;

/// Returns `scale` times ∇ log p(label | x_t), of the shape of `x_t`. `classifier` maps (x_t, timesteps) to logits
/// `[batch, classes]`; `labels` is `[batch]`, int64. Works even if the caller has disabled gradients.
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
            Tensor::run_backward(&[selected], &[x_t], false, false).try_into().expect("one gradient for one input");
        gradient * scale
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
}
