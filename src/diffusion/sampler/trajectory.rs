//! The sampling loop from x_T to x_0, as an iterator over its steps.

use tch::Tensor;

use super::super::guidance::Gradient;
use super::super::posterior::Denoising;
use super::super::process::{GaussianDiffusion, Model};

/// The sampling method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Ancestral sampling.
    Ddpm,
    /// DDIM, with `eta` times the noise of ancestral sampling.
    Ddim {
        /// The fraction of the noise. 0 is deterministic.
        eta: f64,
    },
}

/// The options of a sampling loop.
#[derive(Clone, Copy)]
pub struct SampleOptions<'a> {
    /// The sampling method.
    pub method: Method,
    /// The adjustments of the model's predictions.
    pub denoising: Denoising,
    /// The temperature by which the noise of each step is multiplied (the paper's appendix G). 1 has no effect.
    pub noise_temperature: f64,
    /// The gradient that guides each step.
    pub guidance: Option<&'a Gradient<'a>>,
}

impl Default for SampleOptions<'_> {
    fn default() -> Self {
        Self { method: Method::Ddpm, denoising: Denoising::default(), noise_temperature: 1.0, guidance: None }
    }
}

/// The result of a step.
#[derive(Debug)]
pub struct Step {
    /// x_{t-1}, or x_{t+1} in inversion, `[batch, channels, height, width]`.
    pub sample: Tensor,
    /// The predicted x_0, of the same shape.
    pub x_start: Tensor,
}

/// An iterator over the steps from x_T to x_0. Each call of `next` computes one step.
pub struct Trajectory<'a> {
    diffusion: &'a GaussianDiffusion,
    model: &'a Model<'a>,
    noise: &'a mut dyn FnMut(usize) -> Tensor,
    options: SampleOptions<'a>,
    x_t: Tensor,
    steps_left: usize,
}

impl GaussianDiffusion {
    /// Starts sampling from the standard normal `x_last`, `[batch, channels, height, width]`. The returned iterator has
    /// [`num_timesteps`](Self::num_timesteps) steps, and the sample of the last step is the images.
    ///
    /// `noise` returns the standard normal noise of step 0, 1, ..., of the same shape. It is called only for steps with
    /// noise: not for the last step, and not in deterministic sampling. No autograd graph is recorded.
    #[must_use]
    pub fn sample<'a>(
        &'a self,
        model: &'a Model<'a>,
        x_last: &Tensor,
        noise: &'a mut dyn FnMut(usize) -> Tensor,
        options: SampleOptions<'a>,
    ) -> Trajectory<'a> {
        let steps_left = self.num_timesteps();
        Trajectory { diffusion: self, model, noise, options, x_t: x_last.shallow_clone(), steps_left }
    }
}

impl Trajectory<'_> {
    /// Computes the remaining steps and returns the images, `[batch, channels, height, width]`, approximately in
    /// [-1, 1].
    pub fn finish(mut self) -> Tensor {
        while self.next().is_some() {}
        self.x_t
    }
}

impl Iterator for Trajectory<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let step = self.diffusion.num_timesteps() - self.steps_left;
        self.steps_left = self.steps_left.checked_sub(1)?;
        let t = vec![self.steps_left as i64; self.x_t.size()[0] as usize];
        let SampleOptions { method, denoising, noise_temperature, guidance } = self.options;
        let _no_grad = tch::no_grad_guard();
        let is_noisy = self.steps_left > 0 && method != Method::Ddim { eta: 0.0 };
        let noise = is_noisy.then(|| {
            let noise = (self.noise)(step);
            if noise_temperature == 1.0 { noise } else { noise * noise_temperature }
        });
        let (diffusion, noise) = (self.diffusion, noise.as_ref());
        let step = match method {
            Method::Ddpm => diffusion.p_sample(self.model, &self.x_t, &t, noise, denoising, guidance),
            Method::Ddim { eta } => {
                diffusion.ddim_sample(self.model, &self.x_t, &t, noise.map(|noise| (eta, noise)), denoising, guidance)
            }
        };
        self.x_t = step.sample.shallow_clone();
        Some(step)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.steps_left, Some(self.steps_left))
    }
}

impl ExactSizeIterator for Trajectory<'_> {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::diffusion::test_noise::normal;
    use crate::diffusion::{DiffusionConfig, Variance};

    fn diffusion(respacing: &str) -> GaussianDiffusion {
        let config = DiffusionConfig {
            timestep_respacing: respacing.into(),
            variance: Variance::FixedSmall,
            ..Default::default()
        };
        GaussianDiffusion::new(&config).unwrap()
    }

    fn images() -> Tensor {
        normal(5, &[2, 1, 4, 4]).clamp(-1.0, 1.0)
    }

    /// The exact noise prediction for data that consists of the constant image `mean`. Sampling must return this image.
    fn oracle(diffusion: &GaussianDiffusion, mean: f64) -> impl Fn(&Tensor, &Tensor) -> Tensor {
        let alphas: Vec<f64> = diffusion.schedule().alphas_cumprod.clone();
        let originals: Vec<usize> = diffusion.original_timesteps().to_vec();
        move |x: &Tensor, timesteps: &Tensor| {
            let original = timesteps.double_value(&[0]) as usize;
            let alpha = alphas[originals.iter().position(|&t| t == original).unwrap()];
            (x - mean * alpha.sqrt()) / (1.0 - alpha).sqrt()
        }
    }

    #[test]
    fn every_method_samples_the_only_image_of_the_data() {
        let diffusion = diffusion("ddim50");
        let model = oracle(&diffusion, 0.25);
        for method in [Method::Ddpm, Method::Ddim { eta: 0.0 }, Method::Ddim { eta: 1.0 }] {
            let options = SampleOptions { method, ..Default::default() };
            let mut noise = |_| images();
            let sample = diffusion.sample(&model, &images(), &mut noise, options).finish();
            let error = (sample - 0.25).abs().max().double_value(&[]);
            assert!(error < 1e-4, "{method:?}: {error}");
        }
    }

    #[test]
    fn noise_is_requested_only_for_steps_that_use_it() {
        let diffusion = diffusion("ddim50");
        let model = |x: &Tensor, _: &Tensor| x.shallow_clone();
        let asked = |method| {
            let mut steps = Vec::new();
            let mut noise = |step| {
                steps.push(step);
                images()
            };
            let options = SampleOptions { method, ..Default::default() };
            assert_eq!(diffusion.sample(&model, &images(), &mut noise, options).count(), 50);
            steps
        };
        assert_eq!(asked(Method::Ddpm), (0..49).collect::<Vec<_>>());
        assert_eq!(asked(Method::Ddim { eta: 0.5 }), (0..49).collect::<Vec<_>>());
        assert_eq!(asked(Method::Ddim { eta: 0.0 }), [0usize; 0]);
    }

    #[test]
    fn deterministic_sampling_inverts_encoding() {
        // Both follow the same path to first order in the step size.
        let diffusion = diffusion("ddim500");
        let model = |x: &Tensor, _: &Tensor| x * 0.1;
        let options =
            SampleOptions { method: Method::Ddim { eta: 0.0 }, denoising: Denoising::NONE, ..Default::default() };
        let code = diffusion.ddim_encode(&model, &images(), Denoising::NONE);
        let decoded = diffusion.sample(&model, &code, &mut |_| images(), options).finish();
        let error = (decoded - images()).abs().max().double_value(&[]);
        assert!(error < 0.02, "{error}");
        assert!((code - images()).abs().max().double_value(&[]) > 0.2);
    }

    #[test]
    fn temperatures_scale_epsilon_and_the_noise() {
        let diffusion = diffusion("ddim50");
        let (x_t, t) = (images(), [20, 30]);
        let model = |x: &Tensor, _: &Tensor| x * 0.5;
        let cool = Denoising { epsilon_temperature: 0.5, ..Denoising::NONE };
        let warm = diffusion.p_mean_variance(&model, &x_t, &t, Denoising::NONE).x_start;
        let cold = diffusion.p_mean_variance(&model, &x_t, &t, cool).x_start;
        let expected = diffusion.x_start_from_epsilon(&x_t, &x_t, &t);
        assert!(cold.allclose(&expected, 1e-4, 1e-4, false));
        assert!(!cold.allclose(&warm, 1e-2, 1e-2, false));

        let run = |noise_temperature, noise_of: f64| {
            let options = SampleOptions { noise_temperature, ..Default::default() };
            diffusion.sample(&model, &x_t, &mut |_| images() * noise_of, options).finish()
        };
        assert!(run(0.5, 1.0).equal(&run(1.0, 0.5)));
    }
}
