//! Training losses: squared errors and terms of the variational bound.

use tch::Tensor;

use super::config::{LossType, Prediction};
use super::likelihood::{discretized_gaussian_nll, mean_flat, normal_kl};
use super::posterior::{Denoising, Reverse};
use super::process::{GaussianDiffusion, Model, copy_to_device};

/// The losses of a batch, each `[batch]`, float32.
#[derive(Debug)]
pub struct TrainingLosses {
    /// The loss to minimize.
    pub loss: Tensor,
    /// The mean squared error of the prediction. `None` for the losses `kl` and `rescaled_kl`.
    pub mse: Option<Tensor>,
    /// The term of the variational bound that is part of the loss. `None` if the bound is the whole loss or no part of
    /// it.
    pub vb: Option<Tensor>,
}

impl GaussianDiffusion {
    /// Computes the losses of a model at timesteps `t`: L_simple and L_hybrid of the paper's section 2 and appendix B.
    ///
    /// `x_start` in [-1, 1] and the standard normal `noise` are `[batch, channels, height, width]`; `t` has one
    /// timestep for each sample.
    #[must_use]
    pub fn training_losses(&self, model: &Model, x_start: &Tensor, t: &[i64], noise: &Tensor) -> TrainingLosses {
        let x_t = self.q_sample(x_start, t, noise);
        let output = model(&x_t, &self.model_timesteps(t, x_t.device()));
        let num_timesteps = self.num_timesteps() as f64;
        match self.loss {
            LossType::Kl | LossType::RescaledKl => {
                let reverse = self.reverse(&output, &x_t, t, Denoising::NONE);
                let bound = self.vb_terms(&reverse, x_start, &x_t, t);
                let loss = if self.loss == LossType::RescaledKl { bound * num_timesteps } else { bound };
                TrainingLosses { loss, mse: None, vb: None }
            }
            LossType::Mse | LossType::RescaledMse => {
                let (prediction, variance_values) = self.split(&output, &x_t);
                let target = match self.prediction {
                    Prediction::Epsilon => noise.shallow_clone(),
                    Prediction::XStart => x_start.shallow_clone(),
                    Prediction::PreviousX => self.q_posterior(x_start, &x_t, t).mean,
                };
                let squared_error = (target - &prediction).square();
                let mse = mean_flat(&squared_error);
                let Some(values) = variance_values else {
                    return TrainingLosses { loss: mse.shallow_clone(), mse: Some(mse), vb: None };
                };
                // The bound trains the variance only, so the prediction is detached from the graph.
                let log_variance = self.model_variance(Some(&values), &x_t, t).1;
                let squared_distance = self.squared_distance(&squared_error.detach(), t);
                let mean = |rows: &Tensor, t: &[i64]| {
                    let prediction = prediction.detach().index_select(0, rows);
                    self.model_mean(&prediction, &x_t.index_select(0, rows), t, Denoising::NONE).0
                };
                let mut vb = self.bound(x_start, t, &squared_distance, &log_variance, mean);
                if self.loss == LossType::RescaledMse {
                    vb *= num_timesteps / 1000.0;
                }
                TrainingLosses { loss: &mse + &vb, mse: Some(mse), vb: Some(vb) }
            }
        }
    }

    /// Computes the terms of the variational bound at `t` for a model's distribution p of x_{t-1}, in bits per
    /// dimension, `[batch]`: D(q(x_{t-1} | x_t, x_0) || p), or -log p(x_0 | x_1) over 8-bit levels at t = 0.
    pub fn vb_terms(&self, reverse: &Reverse, x_start: &Tensor, x_t: &Tensor, t: &[i64]) -> Tensor {
        let model = &reverse.previous;
        let squared_distance = (self.q_posterior(x_start, x_t, t).mean - &model.mean).square();
        let mean = |rows: &Tensor, _: &[i64]| model.mean.index_select(0, rows);
        self.bound(x_start, t, &squared_distance, &model.log_variance, mean)
    }

    /// Computes the prior term of the bound, D(q(x_T | x_0) || N(0, 1)), in bits per dimension, `[batch]`.
    pub fn prior_bpd(&self, x_start: &Tensor) -> Tensor {
        let s = self.schedule();
        let last = vec![self.num_timesteps() as i64 - 1; x_start.size()[0] as usize];
        let [signal, log_variance] =
            self.gather(&last, x_start.device(), |t| [s.sqrt_alphas_cumprod[t], s.log_one_minus_alphas_cumprod[t]]);
        normal_kl(&log_variance, &log_variance.zeros_like(), &(signal * x_start).square())
    }

    /// Computes the squared distance between the posterior mean and the model mean from the squared error of an
    /// unclipped prediction. Both means are the same function of x_0, so the distance is a multiple of the error.
    fn squared_distance(&self, squared_error: &Tensor, t: &[i64]) -> Tensor {
        let s = self.schedule();
        let [factor] = self.gather(t, squared_error.device(), |t| {
            let x_start_factor = s.posterior_mean_coef1[t];
            match self.prediction {
                Prediction::Epsilon => [(x_start_factor * s.sqrt_recipm1_alphas_cumprod[t]).powi(2)],
                Prediction::XStart => [x_start_factor.powi(2)],
                Prediction::PreviousX => [1.0],
            }
        });
        factor * squared_error
    }

    /// Computes the terms of the bound from the squared distance of the means. `mean` returns the model mean of rows
    /// at t = 0.
    fn bound(
        &self,
        x_start: &Tensor,
        t: &[i64],
        squared_distance: &Tensor,
        log_variance: &Tensor,
        mean: impl Fn(&Tensor, &[i64]) -> Tensor,
    ) -> Tensor {
        let s = self.schedule();
        let [posterior] = self.gather(t, x_start.device(), |t| [s.posterior_log_variance_clipped[t]]);
        let divergence = normal_kl(&posterior, log_variance, squared_distance);
        let first_steps = rows_at_zero(t);
        if first_steps.is_empty() {
            return divergence;
        }
        // Few samples are at t = 0, and the host knows them: the likelihood is computed for these rows only.
        let rows = copy_to_device(&Tensor::from_slice(&first_steps), x_start.device());
        let nll = discretized_gaussian_nll(
            &x_start.index_select(0, &rows),
            &mean(&rows, &vec![0; first_steps.len()]),
            &log_variance.index_select(0, &rows),
        );
        divergence.index_copy(0, &rows, &nll)
    }
}

/// The rows of the batch at t = 0.
fn rows_at_zero(t: &[i64]) -> Vec<i64> {
    t.iter().zip(0..).filter(|&(&t, _)| t == 0).map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::diffusion::test_noise::normal;
    use crate::diffusion::{DiffusionConfig, Variance};
    use tch::Kind;

    const PREDICTIONS: [Prediction; 3] = [Prediction::Epsilon, Prediction::XStart, Prediction::PreviousX];
    const T: [i64; 4] = [0, 3, 400, 999];

    fn random(seed: u64, channels: i64) -> Tensor {
        normal(seed, &[4, channels, 4, 4])
    }

    fn diffusion(predict: Prediction, variance: Variance, loss: LossType) -> GaussianDiffusion {
        let config = DiffusionConfig { predict, variance, loss, ..Default::default() };
        GaussianDiffusion::new(&config).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor.to_kind(Kind::Double).flatten(0, -1).try_into().unwrap()
    }

    fn assert_close(actual: &Tensor, expected: &Tensor) {
        for (a, e) in values(actual).into_iter().zip(values(expected)) {
            assert!((a - e).abs() <= 1e-4 * e.abs().max(1e-3), "{a} is not {e}");
        }
    }

    #[test]
    fn training_bound_equals_the_bound_of_the_model_distribution() {
        let (x_start, noise) = (random(1, 3).clamp(-1.0, 1.0), random(2, 3));
        for predict in PREDICTIONS {
            for variance in [Variance::LearnedRange, Variance::Learned] {
                let diffusion = diffusion(predict, variance, LossType::Mse);
                let output = random(3, 6) * 0.1;
                let losses = diffusion.training_losses(&|_, _| output.shallow_clone(), &x_start, &T, &noise);
                let x_t = diffusion.q_sample(&x_start, &T, &noise);
                let reverse = diffusion.reverse(&output, &x_t, &T, Denoising::NONE);
                assert_close(&losses.vb.unwrap(), &diffusion.vb_terms(&reverse, &x_start, &x_t, &T));
                assert_close(&losses.loss, &(losses.mse.unwrap() + diffusion.vb_terms(&reverse, &x_start, &x_t, &T)));
            }
        }
    }

    #[test]
    fn the_bound_has_gradients_for_the_variance_only() {
        let output = random(3, 6).set_requires_grad(true);
        let diffusion = diffusion(Prediction::Epsilon, Variance::LearnedRange, LossType::RescaledMse);
        let losses = diffusion.training_losses(&|_, _| output.shallow_clone(), &random(1, 3), &T, &random(2, 3));
        losses.vb.unwrap().sum(Kind::Float).backward();
        let gradient = output.grad().abs();
        assert_eq!(gradient.narrow(1, 0, 3).max().double_value(&[]), 0.0);
        let variance_gradient =
            values(&gradient.narrow(1, 3, 3).sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Float));
        assert!(variance_gradient.iter().all(|&g| g > 0.0 && g.is_finite()), "{variance_gradient:?}");
    }

    #[test]
    fn rescaled_kl_is_a_multiple_of_kl() {
        let (x_start, noise) = (random(1, 3), random(2, 3));
        let loss = |loss| {
            let diffusion = diffusion(Prediction::Epsilon, Variance::FixedSmall, loss);
            diffusion.training_losses(&|x, _| x * 0.5, &x_start, &T, &noise)
        };
        assert_close(&loss(LossType::RescaledKl).loss, &(loss(LossType::Kl).loss * 1000.0));
        assert!(loss(LossType::Mse).vb.is_none());
    }

    #[test]
    fn a_perfect_prediction_has_zero_loss_and_zero_bound() {
        let (x_start, noise) = (random(1, 3).clamp(-1.0, 1.0), random(2, 3));
        let diffusion = diffusion(Prediction::XStart, Variance::FixedSmall, LossType::Mse);
        let losses = diffusion.training_losses(&|_, _| x_start.shallow_clone(), &x_start, &T, &noise);
        assert_eq!(losses.loss.abs().max().double_value(&[]), 0.0);
        let x_t = diffusion.q_sample(&x_start, &T, &noise);
        let reverse = diffusion.reverse(&x_start, &x_t, &T, Denoising::NONE);
        let bound = values(&diffusion.vb_terms(&reverse, &x_start, &x_t, &T));
        assert!(bound[1..].iter().all(|bits| bits.abs() < 1e-6), "{bound:?}");
    }
}
