//! The reverse direction: the true posterior q(x_{t-1} | x_t, x_0) and the model distribution p(x_{t-1} | x_t).

use tch::Tensor;

use super::config::{Prediction, Variance};
use super::process::{GaussianDiffusion, Model};

/// A Gaussian over images. Each tensor broadcasts to `[batch, channels, height, width]`.
#[derive(Debug)]
pub struct Gaussian {
    /// Mean, `[batch, channels, height, width]`.
    pub mean: Tensor,
    /// Variance: of the shape of the mean if it is learned, otherwise `[batch, 1, 1, 1]`.
    pub variance: Tensor,
    /// Natural logarithm of the variance. Finite even if the variance is 0.
    pub log_variance: Tensor,
}

/// The model distribution p(x_{t-1} | x_t) and the predicted clean image.
#[derive(Debug)]
pub struct Reverse {
    /// The distribution of x_{t-1}.
    pub previous: Gaussian,
    /// The x_0 that the model predicts, `[batch, channels, height, width]`.
    pub x_start: Tensor,
}

/// Adjustments of a prediction before the mean of p(x_{t-1} | x_t) is computed from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Denoising {
    /// Whether the predicted x_0 is clamped to [-1, 1].
    pub clip_denoised: bool,
    /// The temperature by which the predicted ε is divided (the paper's appendix G). 1 has no effect.
    pub epsilon_temperature: f64,
}

impl Default for Denoising {
    fn default() -> Self {
        Self { clip_denoised: true, epsilon_temperature: 1.0 }
    }
}

impl Denoising {
    /// No adjustment, as in the losses.
    pub const NONE: Self = Self { clip_denoised: false, epsilon_temperature: 1.0 };
}

impl GaussianDiffusion {
    /// Computes q(x_{t-1} | x_t, x_0), the paper's equations 19 to 21. `x_start` and `x_t` are
    /// `[batch, channels, height, width]`. The log variance at t = 0 is the log variance at t = 1.
    #[must_use]
    pub fn q_posterior(&self, x_start: &Tensor, x_t: &Tensor, t: &[i64]) -> Gaussian {
        let s = self.schedule();
        let [x_start_factor, x_t_factor, variance, log_variance] = self.gather(t, x_t.device(), |t| {
            [
                s.posterior_mean_coef1[t],
                s.posterior_mean_coef2[t],
                s.posterior_variance[t],
                s.posterior_log_variance_clipped[t],
            ]
        });
        Gaussian { mean: (x_start_factor * x_start).addcmul(&x_t_factor, x_t), variance, log_variance }
    }

    /// Runs the model on x_t and computes p(x_{t-1} | x_t) from its output.
    #[must_use]
    pub fn p_mean_variance(&self, model: &Model, x_t: &Tensor, t: &[i64], denoising: Denoising) -> Reverse {
        let output = model(x_t, &self.model_timesteps(t, x_t.device()));
        self.reverse(&output, x_t, t, denoising)
    }

    /// Computes p(x_{t-1} | x_t) from the model's output for x_t. The output is `[batch, channels, height, width]`, or
    /// has twice the channels if the variance is learned.
    #[must_use]
    pub fn reverse(&self, output: &Tensor, x_t: &Tensor, t: &[i64], denoising: Denoising) -> Reverse {
        let (prediction, variance_values) = self.split(output, x_t);
        let (variance, log_variance) = self.model_variance(variance_values.as_ref(), x_t, t);
        let (mean, x_start) = self.model_mean(&prediction, x_t, t, denoising);
        Reverse { previous: Gaussian { mean, variance, log_variance }, x_start }
    }

    /// Splits the model's output into the prediction and, if the variance is learned, the variance channels.
    pub(super) fn split(&self, output: &Tensor, x_t: &Tensor) -> (Tensor, Option<Tensor>) {
        let channels = x_t.size()[1];
        let expected = if self.variance.is_learned() { 2 * channels } else { channels };
        assert_eq!(output.size()[1], expected, "channels of the model's output for an image of {channels}");
        if self.variance.is_learned() {
            (output.narrow(1, 0, channels), Some(output.narrow(1, channels, channels)))
        } else {
            (output.shallow_clone(), None)
        }
    }

    /// Computes the variance and log variance of p.
    pub(super) fn model_variance(&self, values: Option<&Tensor>, x_t: &Tensor, t: &[i64]) -> (Tensor, Tensor) {
        let s = self.schedule();
        match (self.variance, values) {
            (Variance::LearnedRange, Some(values)) => {
                // The value -1 stands for the posterior log variance, 1 for ln(beta).
                let [middle, half] = self.gather(t, x_t.device(), |t| {
                    let (small, large) = (s.posterior_log_variance_clipped[t], s.betas[t].ln());
                    [(small + large) / 2.0, (large - small) / 2.0]
                });
                let log_variance = middle.addcmul(&half, values);
                (log_variance.exp(), log_variance)
            }
            (Variance::Learned, Some(values)) => (values.exp(), values.shallow_clone()),
            (Variance::FixedLarge, _) => {
                self.gather(t, x_t.device(), |t| [s.fixed_large_variance[t], s.fixed_large_variance[t].ln()]).into()
            }
            (Variance::FixedSmall, _) => {
                self.gather(t, x_t.device(), |t| [s.posterior_variance[t], s.posterior_log_variance_clipped[t]]).into()
            }
            (Variance::LearnedRange | Variance::Learned, None) => {
                unreachable!("split gives values wherever the variance is learned")
            }
        }
    }

    /// Computes the mean of p and the predicted x_0.
    pub(super) fn model_mean(
        &self,
        prediction: &Tensor,
        x_t: &Tensor,
        t: &[i64],
        denoising: Denoising,
    ) -> (Tensor, Tensor) {
        let mut x_start = self.x_start_from(prediction, x_t, t);
        let temperature = denoising.epsilon_temperature;
        if temperature != 1.0 {
            let epsilon = self.epsilon_from_x_start(&x_start, x_t, t) / temperature;
            x_start = self.x_start_from_epsilon(&epsilon, x_t, t);
        }
        if denoising.clip_denoised {
            x_start = x_start.clamp(-1.0, 1.0);
        }
        let mean = if self.prediction == Prediction::PreviousX && temperature == 1.0 {
            prediction.shallow_clone()
        } else {
            self.q_posterior(&x_start, x_t, t).mean
        };
        (mean, x_start)
    }

    fn x_start_from(&self, prediction: &Tensor, x_t: &Tensor, t: &[i64]) -> Tensor {
        match self.prediction {
            Prediction::XStart => prediction.shallow_clone(),
            Prediction::Epsilon => self.x_start_from_epsilon(prediction, x_t, t),
            Prediction::PreviousX => {
                let s = self.schedule();
                let [previous_factor, x_t_factor] = self.gather(t, x_t.device(), |t| {
                    let coefficient = s.posterior_mean_coef1[t];
                    [1.0 / coefficient, -s.posterior_mean_coef2[t] / coefficient]
                });
                (previous_factor * prediction).addcmul(&x_t_factor, x_t)
            }
        }
    }

    /// Computes x_0 from x_t and its noise `epsilon`, both `[batch, channels, height, width]`.
    ///
    /// Near the last timestep this is a small difference of large numbers, and a fused multiply-add would change the
    /// result noticeably. Both products are rounded before the subtraction, as in the published implementation.
    pub fn x_start_from_epsilon(&self, epsilon: &Tensor, x_t: &Tensor, t: &[i64]) -> Tensor {
        let s = self.schedule();
        let [x_t_factor, epsilon_factor] =
            self.gather(t, x_t.device(), |t| [s.sqrt_recip_alphas_cumprod[t], s.sqrt_recipm1_alphas_cumprod[t]]);
        x_t_factor * x_t - epsilon_factor * epsilon
    }

    /// Computes the noise in x_t from x_t and `x_start`, both `[batch, channels, height, width]`.
    pub fn epsilon_from_x_start(&self, x_start: &Tensor, x_t: &Tensor, t: &[i64]) -> Tensor {
        let s = self.schedule();
        let [x_t_factor, epsilon_factor] =
            self.gather(t, x_t.device(), |t| [s.sqrt_recip_alphas_cumprod[t], s.sqrt_recipm1_alphas_cumprod[t]]);
        (x_t_factor * x_t - x_start) / epsilon_factor
    }
}
