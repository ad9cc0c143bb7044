//! The variational bound of images, with the term of each timestep.

use tch::Tensor;

use super::likelihood::mean_flat;
use super::posterior::Denoising;
use super::process::{GaussianDiffusion, Model};

/// An upper bound of -log p(x_0) and its terms, in bits per dimension. Column t belongs to timestep t.
#[derive(Debug)]
pub struct BitsPerDimension {
    /// The bound: the sum of the prior term and the terms of all timesteps, `[batch]`.
    pub total: Tensor,
    /// The prior term, D(q(x_T | x_0) || N(0, 1)), `[batch]`.
    pub prior: Tensor,
    /// The terms of the timesteps, `[batch, timesteps]`.
    pub vb: Tensor,
    /// Mean squared error of the predicted x_0, `[batch, timesteps]`.
    pub x_start_mse: Tensor,
    /// Mean squared error of the predicted noise, `[batch, timesteps]`.
    pub mse: Tensor,
}

impl GaussianDiffusion {
    /// Evaluates the bound (the sum of the terms of the paper's equation 18) for images `x_start` in [-1, 1],
    /// `[batch, channels, height, width]`.
    ///
    /// `noise` returns the standard normal noise of a timestep, of the shape of `x_start`, from which x_t is computed.
    /// It is called from the last timestep to the first. No autograd graph is recorded.
    #[must_use]
    pub fn bits_per_dimension(
        &self,
        model: &Model,
        x_start: &Tensor,
        noise: &mut dyn FnMut(usize) -> Tensor,
        clip_denoised: bool,
    ) -> BitsPerDimension {
        let _no_grad = tch::no_grad_guard();
        let batch = x_start.size()[0] as usize;
        let denoising = Denoising { clip_denoised, ..Denoising::NONE };
        let (mut vb, mut x_start_mse, mut mse) = (Vec::new(), Vec::new(), Vec::new());
        for timestep in (0..self.num_timesteps()).rev() {
            let t = vec![timestep as i64; batch];
            let noise = noise(timestep);
            let x_t = self.q_sample(x_start, &t, &noise);
            let reverse = self.p_mean_variance(model, &x_t, &t, denoising);
            let epsilon = self.epsilon_from_x_start(&reverse.x_start, &x_t, &t);
            vb.push(self.vb_terms(&reverse, x_start, &x_t, &t));
            x_start_mse.push(mean_flat(&(&reverse.x_start - x_start).square()));
            mse.push(mean_flat(&(epsilon - noise).square()));
        }
        let by_timestep = |columns: Vec<Tensor>| Tensor::stack(&columns, 1).flip([1i64]);
        let (prior, vb) = (self.prior_bpd(x_start), by_timestep(vb));
        BitsPerDimension {
            total: vb.sum_dim_intlist(1i64, false, None::<tch::Kind>) + &prior,
            prior,
            vb,
            x_start_mse: by_timestep(x_start_mse),
            mse: by_timestep(mse),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::diffusion::test_noise::normal;
    use crate::diffusion::{DiffusionConfig, NoiseSchedule};
    use tch::Kind;

    #[test]
    fn columns_are_timesteps_and_sum_to_the_total() {
        let config =
            DiffusionConfig { diffusion_steps: 8, noise_schedule: NoiseSchedule::Cosine, ..Default::default() };
        let diffusion = GaussianDiffusion::new(&config).unwrap();
        let x_start = normal(1, &[2, 1, 4, 4]).clamp(-1.0, 1.0);
        let noises: Vec<Tensor> = (2..10).map(|seed| normal(seed, &[2, 1, 4, 4])).collect();
        let model = |x: &Tensor, _: &Tensor| Tensor::cat(&[x * 0.5, x.zeros_like()], 1);
        let bits = diffusion.bits_per_dimension(&model, &x_start, &mut |t| noises[t].shallow_clone(), false);

        let t = [5, 5];
        let x_t = diffusion.q_sample(&x_start, &t, &noises[5]);
        let reverse = diffusion.p_mean_variance(&model, &x_t, &t, Denoising::NONE);
        let vb = diffusion.vb_terms(&reverse, &x_start, &x_t, &t);
        assert!(bits.vb.select(1, 5).allclose(&vb, 1e-6, 0.0, false));
        let error = mean_flat(&(&x_t * 0.5 - &noises[5]).square());
        assert!(bits.mse.select(1, 5).allclose(&error, 1e-4, 0.0, false));
        let total = bits.vb.sum_dim_intlist(1i64, false, Kind::Float) + &bits.prior;
        assert!(bits.total.allclose(&total, 1e-6, 0.0, false));
        assert_eq!(bits.x_start_mse.size(), [2, 8]);
    }
}
