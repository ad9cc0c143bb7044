//! Ancestral sampling (Ho et al. 2020): x_{t-1} is sampled from p(x_{t-1} | x_t).

use tch::Tensor;

use super::super::guidance::Gradient;
use super::super::posterior::Denoising;
use super::super::process::{GaussianDiffusion, Model};
use super::trajectory::Step;

impl GaussianDiffusion {
    /// Samples x_{t-1} from p(x_{t-1} | x_t) with the given standard normal noise. `x_t` and `noise` are `[batch,
    /// channels, height, width]`. Samples at t = 0 receive no noise. Without `noise` the sample is the mean.
    ///
    /// `guidance` shifts the mean by the variance times the gradient (the paper's algorithm 1).
    #[must_use]
    pub fn p_sample(
        &self,
        model: &Model,
        x_t: &Tensor,
        t: &[i64],
        noise: Option<&Tensor>,
        denoising: Denoising,
        guidance: Option<&Gradient>,
    ) -> Step {
        let timesteps = self.model_timesteps(t, x_t.device());
        let reverse = self.reverse(&model(x_t, &timesteps), x_t, t, denoising);
        let mut mean = reverse.previous.mean;
        if let Some(gradient) = guidance {
            mean = mean.addcmul(&reverse.previous.variance, &gradient(x_t, &timesteps));
        }
        let sample = match noise {
            None => mean,
            Some(noise) => {
                let [has_noise] = self.gather(t, x_t.device(), |t| [if t == 0 { 0.0 } else { 1.0 }]);
                let deviation = (reverse.previous.log_variance * 0.5).exp() * has_noise;
                mean.addcmul(&deviation, noise)
            }
        };
        Step { sample, x_start: reverse.x_start }
    }
}
