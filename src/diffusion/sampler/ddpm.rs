//! Ancestral sampling (Ho et al. 2020): x_{t-1} is sampled from p(x_{t-1} | x_t).

use std::sync::Arc;

use tch::Tensor;

use super::super::posterior::Denoising;
use super::super::process::{GaussianDiffusion, Model};
use super::levels::Level;
use super::options::{Settings, SolverError};
use super::solver::{Factory, GuidedModel, Solver, Step};
use crate::diffusion::Gradient;

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
        Step { sample, x_start: reverse.x_start, correction: None }
    }
}

/// A respaced process, visited from its last timestep to its first.
pub(super) struct Respaced {
    pub(super) diffusion: GaussianDiffusion,
    pub(super) denoising: Denoising,
    pub(super) levels: Vec<Level>,
}

impl Respaced {
    pub(super) fn new(settings: &Settings) -> Result<Self, SolverError> {
        let Settings { options, process, .. } = settings;
        let diffusion = GaussianDiffusion::new(&options.respaced(process))?;
        let original = diffusion.original_timesteps().iter().rev();
        let mut levels: Vec<Level> = original
            .zip(diffusion.schedule().alphas_cumprod.iter().rev())
            .map(|(&t, alpha_bar)| Level::new(0.5 * alpha_bar.ln(), t as f64, process.timestep_scale()))
            .collect();
        levels.push(Level::CLEAN);
        let denoising =
            Denoising { clip_denoised: options.clip_denoised, epsilon_temperature: options.epsilon_temperature };
        Ok(Self { diffusion, denoising, levels })
    }

    /// The timestep of step `index`, for each image of the batch `x`.
    pub(super) fn timesteps(&self, index: usize, x: &Tensor) -> Vec<i64> {
        vec![(self.diffusion.num_timesteps() - 1 - index) as i64; x.size()[0] as usize]
    }
}

/// Ancestral sampling over the timesteps of a respaced process.
struct Ddpm(Arc<Respaced>);

/// Prepares ancestral sampling.
pub(super) fn ddpm(settings: &Settings) -> Result<Factory, SolverError> {
    let respaced = Arc::new(Respaced::new(settings)?);
    Ok(Box::new(move || Box::new(Ddpm(respaced.clone()))))
}

impl Solver for Ddpm {
    fn levels(&self) -> &[Level] {
        &self.0.levels
    }

    fn num_evaluations(&self) -> usize {
        self.num_steps()
    }

    fn order(&self, _: usize) -> usize {
        1
    }

    fn uses_noise(&self, index: usize) -> bool {
        index + 1 < self.num_steps()
    }

    fn step(&mut self, index: usize, x: &Tensor, model: &GuidedModel, noise: &mut dyn FnMut(usize) -> Tensor) -> Step {
        let noise = self.uses_noise(index).then(|| noise(index));
        let Respaced { diffusion, denoising, .. } = &*self.0;
        let t = self.0.timesteps(index, x);
        diffusion.p_sample(model.predict, x, &t, noise.as_ref(), *denoising, model.gradient)
    }
}
