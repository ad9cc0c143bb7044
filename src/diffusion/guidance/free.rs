//! Classifier-free guidance (Ho and Salimans 2021).

use tch::Tensor;

use super::super::process::Model;
use super::extrapolate::extrapolate;

/// Returns the output of a network with the prediction (1 + w) ε(x_t, y) - w ε(x_t), where w is `guidance`: 0 is the
/// network itself. The variance is that of ε(x_t, y).
///
/// `conditional` calls the network with the classes of the images, `unconditional` with the null class, the last row
/// of the class embedding of a network that was trained with `model.class_dropout`. `x_t` is `[batch, channels,
/// height, width]`, `timesteps` is `[batch]`, float32, in the network's scale.
pub fn classifier_free_guidance(
    conditional: &Model,
    unconditional: &Model,
    guidance: f64,
    x_t: &Tensor,
    timesteps: &Tensor,
) -> Tensor {
    extrapolate(conditional, unconditional, guidance, x_t, timesteps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guidance_of_one_doubles_the_conditional_prediction() {
        let x = Tensor::from_slice(&[1.0f32, 2.0]).view([2, 1, 1, 1]);
        let output = classifier_free_guidance(&|x, _| x * 5.0, &|x, _| x * 3.0, 1.0, &x, &x.view([2]));
        assert!(output.equal(&(x * 7.0)));
    }
}
