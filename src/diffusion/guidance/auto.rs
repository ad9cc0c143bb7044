//! Autoguidance (Karras et al. 2024): guidance by a worse version of the same network.

use tch::Tensor;

use super::super::process::Model;
use super::extrapolate::extrapolate;

/// Returns the output of a network with the prediction main + (g - 1)(main - bad), where g is `guidance`: 1 is `main`
/// itself. The variance is that of `main`.
///
/// `bad` is a smaller network or one with less training, with the same prediction and the same classes. `x_t` is
/// `[batch, channels, height, width]`, `timesteps` is `[batch]`, float32, in the networks' scale.
pub fn autoguidance(main: &Model, bad: &Model, guidance: f64, x_t: &Tensor, timesteps: &Tensor) -> Tensor {
    extrapolate(main, bad, guidance - 1.0, x_t, timesteps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guidance_of_one_is_the_main_network() {
        let x = Tensor::from_slice(&[1.0f32, 2.0]).view([2, 1, 1, 1]);
        let guided = |guidance| autoguidance(&|x, _| x * 5.0, &|x, _| x * 3.0, guidance, &x, &x.view([2]));
        assert!(guided(1.0).equal(&(&x * 5.0)));
        assert!(guided(2.0).equal(&(&x * 7.0)));
    }
}
