//! The sampling loop from x_T to x_0, as an iterator over its steps.

use tch::Tensor;

use super::solver::{GuidedModel, Solver, Step};

/// An iterator over the steps of a solver. Each call of `next` computes one step. No autograd graph is recorded.
pub struct Trajectory<'a> {
    solver: Box<dyn Solver>,
    model: GuidedModel<'a>,
    noise: &'a mut dyn FnMut(usize) -> Tensor,
    noise_temperature: f64,
    x: Tensor,
    index: usize,
}

impl<'a> Trajectory<'a> {
    /// Starts sampling from the standard normal `x_last`, `[batch, channels, height, width]`.
    ///
    /// `noise` returns the standard normal noise of step 0, 1, ..., of the same shape. It is called only for steps that
    /// use noise.
    #[must_use]
    pub fn new(
        solver: Box<dyn Solver>,
        model: GuidedModel<'a>,
        x_last: &Tensor,
        noise: &'a mut dyn FnMut(usize) -> Tensor,
    ) -> Self {
        Self { solver, model, noise, noise_temperature: 1.0, x: x_last.shallow_clone(), index: 0 }
    }

    /// Sets the temperature by which the noise of each step is multiplied (the paper's appendix G). 1 has no effect.
    #[must_use]
    pub fn with_noise_temperature(self, noise_temperature: f64) -> Self {
        Self { noise_temperature, ..self }
    }

    /// Computes the remaining steps and returns the images, `[batch, channels, height, width]`, approximately in
    /// [-1, 1].
    pub fn finish(mut self) -> Tensor {
        while self.next().is_some() {}
        self.x
    }
}

impl Iterator for Trajectory<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.index == self.solver.num_steps() {
            return None;
        }
        let _no_grad = tch::no_grad_guard();
        let temperature = self.noise_temperature;
        let mut noise = |step: usize| {
            let noise = (self.noise)(step);
            if temperature == 1.0 { noise } else { noise * temperature }
        };
        let step = self.solver.step(self.index, &self.x, &self.model, &mut noise);
        self.index += 1;
        self.x = step.sample.shallow_clone();
        Some(step)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let steps_left = self.solver.num_steps() - self.index;
        (steps_left, Some(steps_left))
    }
}

impl ExactSizeIterator for Trajectory<'_> {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::options::SolverOptions;
    use super::super::table::{Sampler, SolverPlan};
    use super::*;
    use crate::diffusion::test_noise::normal;
    use crate::diffusion::{Denoising, DiffusionConfig, GaussianDiffusion, Variance};

    fn process(respacing: &str) -> DiffusionConfig {
        DiffusionConfig {
            timestep_respacing: respacing.into(),
            variance: Variance::FixedSmall,
            ..DiffusionConfig::default()
        }
    }

    fn plan(sampler: &str, respacing: &str, clip_denoised: bool) -> SolverPlan {
        let sampler: Sampler = sampler.parse().unwrap();
        let options = SolverOptions { timestep_respacing: respacing.into(), clip_denoised, ..SolverOptions::default() };
        SolverPlan::new(sampler, &options, &process("")).unwrap()
    }

    fn images() -> Tensor {
        normal(5, &[2, 1, 4, 4]).clamp(-1.0, 1.0)
    }

    #[test]
    fn deterministic_sampling_inverts_encoding() {
        // Both follow the same path to first order in the step size.
        let diffusion = GaussianDiffusion::new(&process("ddim500")).unwrap();
        let model = |x: &Tensor, _: &Tensor| x * 0.1;
        let code = diffusion.ddim_encode(&model, &images(), Denoising::NONE);
        let solver = plan("ddim", "ddim500", false).start();
        let mut noise = |_| images();
        let decoded = Trajectory::new(solver, GuidedModel::unguided(&model), &code, &mut noise).finish();
        let error = (decoded - images()).abs().max().double_value(&[]);
        assert!(error < 0.02, "{error}");
        assert!((code - images()).abs().max().double_value(&[]) > 0.2);
    }

    #[test]
    fn temperatures_scale_epsilon_and_the_noise() {
        let diffusion = GaussianDiffusion::new(&process("ddim50")).unwrap();
        let (x_t, t) = (images(), [20, 30]);
        let model = |x: &Tensor, _: &Tensor| x * 0.5;
        let cool = Denoising { epsilon_temperature: 0.5, ..Denoising::NONE };
        let warm = diffusion.p_mean_variance(&model, &x_t, &t, Denoising::NONE).x_start;
        let cold = diffusion.p_mean_variance(&model, &x_t, &t, cool).x_start;
        let expected = diffusion.x_start_from_epsilon(&x_t, &x_t, &t);
        assert!(cold.allclose(&expected, 1e-4, 1e-4, false));
        assert!(!cold.allclose(&warm, 1e-2, 1e-2, false));

        let plan = plan("ddpm", "ddim50", true);
        let run = |temperature, noise_of: f64| {
            let mut noise = |_| images() * noise_of;
            Trajectory::new(plan.start(), GuidedModel::unguided(&model), &x_t, &mut noise)
                .with_noise_temperature(temperature)
                .finish()
        };
        assert!(run(0.5, 1.0).equal(&run(1.0, 0.5)));
    }

    #[test]
    fn a_trajectory_knows_its_length() {
        let model = |x: &Tensor, _: &Tensor| x * 0.5;
        let mut noise = |_| images();
        let solver = plan("ddim", "ddim25", true).start();
        let mut trajectory = Trajectory::new(solver, GuidedModel::unguided(&model), &images(), &mut noise);
        assert_eq!(trajectory.len(), 25);
        trajectory.next();
        assert_eq!(trajectory.len(), 24);
        assert_eq!(trajectory.count(), 24);
    }
}
