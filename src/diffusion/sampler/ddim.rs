//! DDIM (Song et al. 2020): sampling with reduced or no noise, and its inversion.

use std::sync::Arc;

use tch::Tensor;

use super::super::posterior::Denoising;
use super::super::process::{GaussianDiffusion, Model};
use super::ddpm::Respaced;
use super::levels::Level;
use super::options::{Settings, SolverError};
use super::solver::{Factory, GuidedModel, Solver, Step};
use crate::diffusion::Gradient;

impl GaussianDiffusion {
    /// Computes x_{t-1} from x_t, `[batch, channels, height, width]` (equation 12 of Song et al.).
    ///
    /// `noise` is a pair: η, which scales the noise relative to ancestral sampling, and standard normal noise. If it is
    /// `None`, the step is deterministic (η = 0). Samples at t = 0 receive no noise. `guidance` shifts ε by -√(1 - alpha_bar) times
    /// the gradient (the paper's algorithm 2).
    #[must_use]
    pub fn ddim_sample(
        &self,
        model: &Model,
        x_t: &Tensor,
        t: &[i64],
        noise: Option<(f64, &Tensor)>,
        denoising: Denoising,
        guidance: Option<&Gradient>,
    ) -> Step {
        let timesteps = self.model_timesteps(t, x_t.device());
        let mut x_start = self.reverse(&model(x_t, &timesteps), x_t, t, denoising).x_start;
        // ε is computed from x_0, which may have been clipped.
        let mut epsilon = self.epsilon_from_x_start(&x_start, x_t, t);
        let s = self.schedule();
        if let Some(gradient) = guidance {
            let [shift] = self.gather(t, x_t.device(), |t| [-s.sqrt_one_minus_alphas_cumprod[t]]);
            epsilon = epsilon.addcmul(&shift, &gradient(x_t, &timesteps));
            x_start = self.x_start_from_epsilon(&epsilon, x_t, t);
        }
        let eta = noise.map_or(0.0, |(eta, _)| eta);
        let [signal, direction, sigma] = self.gather(t, x_t.device(), |t| {
            let (now, previous) = (s.alphas_cumprod[t], s.alphas_cumprod_prev[t]);
            let sigma = eta * ((1.0 - previous) / (1.0 - now)).sqrt() * (1.0 - now / previous).sqrt();
            [previous.sqrt(), (1.0 - previous - sigma * sigma).max(0.0).sqrt(), sigma]
        });
        let mut sample = (signal * &x_start).addcmul(&direction, &epsilon);
        if let Some((_, noise)) = noise {
            // sigma is 0 at t = 0, because alpha_bar before the first step is 1.
            sample = sample.addcmul(&sigma, noise);
        }
        Step { sample, x_start, correction: None }
    }

    /// Computes x_{t+1} from x_t, `[batch, channels, height, width]`, along the deterministic path (`eta` = 0): one
    /// step of encoding an image.
    #[must_use]
    pub fn ddim_reverse_sample(&self, model: &Model, x_t: &Tensor, t: &[i64], denoising: Denoising) -> Step {
        let x_start = self.p_mean_variance(model, x_t, t, denoising).x_start;
        let epsilon = self.epsilon_from_x_start(&x_start, x_t, t);
        let s = self.schedule();
        let [signal, direction] = self.gather(t, x_t.device(), |t| {
            let next = s.alphas_cumprod_next[t];
            [next.sqrt(), (1.0 - next).sqrt()]
        });
        Step { sample: (signal * &x_start).addcmul(&direction, &epsilon), x_start, correction: None }
    }

    /// Encodes images `[batch, channels, height, width]` to the noise from which deterministic sampling reproduces them
    /// (the paper's appendix F).
    ///
    /// Applies [`ddim_reverse_sample`](Self::ddim_reverse_sample) at every timestep except the last, because sampling
    /// starts at the noise level of the last timestep. No autograd graph is recorded.
    pub fn ddim_encode(&self, model: &Model, images: &Tensor, denoising: Denoising) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let batch = images.size()[0] as usize;
        (0..self.num_timesteps() as i64 - 1).fold(images.shallow_clone(), |x_t, t| {
            self.ddim_reverse_sample(model, &x_t, &vec![t; batch], denoising).sample
        })
    }
}

/// DDIM over the timesteps of a respaced process, with η times the noise of ancestral sampling.
struct Ddim {
    respaced: Arc<Respaced>,
    eta: f64,
}

/// Prepares DDIM.
pub(super) fn ddim(settings: &Settings) -> Result<Factory, SolverError> {
    let (respaced, eta) = (Arc::new(Respaced::new(settings)?), settings.options.eta);
    Ok(Box::new(move || Box::new(Ddim { respaced: respaced.clone(), eta })))
}

impl Solver for Ddim {
    fn levels(&self) -> &[Level] {
        &self.respaced.levels
    }

    fn num_evaluations(&self) -> usize {
        self.num_steps()
    }

    fn order(&self, _: usize) -> usize {
        1
    }

    fn uses_noise(&self, index: usize) -> bool {
        self.eta != 0.0 && index + 1 < self.num_steps()
    }

    fn step(&mut self, index: usize, x: &Tensor, model: &GuidedModel, noise: &mut dyn FnMut(usize) -> Tensor) -> Step {
        let noise = self.uses_noise(index).then(|| noise(index));
        let noise = noise.as_ref().map(|noise| (self.eta, noise));
        let Respaced { diffusion, denoising, .. } = &*self.respaced;
        diffusion.ddim_sample(model.predict, x, &self.respaced.timesteps(index, x), noise, *denoising, model.gradient)
    }
}
