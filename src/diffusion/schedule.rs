//! Noise schedules and the coefficients derived from them, in float64.

use super::config::NoiseSchedule;

/// The upper limit of beta in the cosine schedule. A larger beta would destroy the image in a single step.
const MAX_BETA: f64 = 0.999;

/// Returns the betas of a full process of `num_timesteps`.
#[must_use]
pub fn betas(schedule: NoiseSchedule, num_timesteps: usize) -> Vec<f64> {
    let num = num_timesteps as f64;
    match schedule {
        NoiseSchedule::Linear => {
            let (first, last) = (0.0001 * 1000.0 / num, 0.02 * 1000.0 / num);
            let step = (last - first) / (num - 1.0);
            (0..num_timesteps).map(|t| first + t as f64 * step).collect()
        }
        NoiseSchedule::Cosine => {
            let alpha_bar = |time: f64| ((time + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
            (0..num_timesteps)
                .map(|t| (1.0 - alpha_bar((t + 1) as f64 / num) / alpha_bar(t as f64 / num)).min(MAX_BETA))
                .collect()
        }
    }
}

/// The coefficients derived from the betas. Entry t of each array belongs to the step between x_{t-1} and x_t; the
/// paper's x_t is entry t - 1. The equations are in appendix B of the paper and in Ho et al. (2020).
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// beta_t.
    pub betas: Vec<f64>,
    /// alpha_bar_t, the product of 1 - beta up to t.
    pub alphas_cumprod: Vec<f64>,
    /// alpha_bar_{t-1}; 1 before the first step.
    pub alphas_cumprod_prev: Vec<f64>,
    /// alpha_bar_{t+1}; 0 after the last step.
    pub alphas_cumprod_next: Vec<f64>,
    /// √alpha_bar_t.
    pub sqrt_alphas_cumprod: Vec<f64>,
    /// √(1 - alpha_bar_t).
    pub sqrt_one_minus_alphas_cumprod: Vec<f64>,
    /// ln(1 - alpha_bar_t).
    pub log_one_minus_alphas_cumprod: Vec<f64>,
    /// √(1 / alpha_bar_t).
    pub sqrt_recip_alphas_cumprod: Vec<f64>,
    /// √(1 / alpha_bar_t - 1).
    pub sqrt_recipm1_alphas_cumprod: Vec<f64>,
    /// The variance of q(x_{t-1} | x_t, x_0). It is 0 at t = 0.
    pub posterior_variance: Vec<f64>,
    /// The logarithm of the posterior variance. The entry at t = 0 would be -∞ and is replaced by the entry at t = 1.
    pub posterior_log_variance_clipped: Vec<f64>,
    /// The factor of x_0 in the mean of q(x_{t-1} | x_t, x_0).
    pub posterior_mean_coef1: Vec<f64>,
    /// The factor of x_t in the mean of q(x_{t-1} | x_t, x_0).
    pub posterior_mean_coef2: Vec<f64>,
    /// The larger of the fixed variances: beta_t, and at t = 0 the posterior variance of t = 1.
    pub fixed_large_variance: Vec<f64>,
}

impl Schedule {
    /// Derives the coefficients from the betas. There is at least one beta, and each is in 0..1.
    #[must_use]
    pub fn new(betas: Vec<f64>) -> Self {
        let n = betas.len();
        let alphas_cumprod: Vec<f64> = betas
            .iter()
            .scan(1.0, |product, beta| {
                *product *= 1.0 - beta;
                Some(*product)
            })
            .collect();
        let alphas_cumprod_prev: Vec<f64> =
            std::iter::once(1.0).chain(alphas_cumprod.iter().copied()).take(n).collect();
        let alphas_cumprod_next: Vec<f64> =
            alphas_cumprod.iter().copied().skip(1).chain(std::iter::once(0.0)).collect();
        let map_alpha_bar = |f: fn(f64) -> f64| -> Vec<f64> { alphas_cumprod.iter().map(|&a| f(a)).collect() };
        let map_steps = |f: fn(f64, f64, f64) -> f64| -> Vec<f64> {
            (0..n).map(|t| f(betas[t], alphas_cumprod[t], alphas_cumprod_prev[t])).collect()
        };

        let posterior_variance = map_steps(|beta, now, prev| beta * (1.0 - prev) / (1.0 - now));
        // A process of one step has no second variance. beta is an upper bound of the first.
        let first_variance = posterior_variance.get(1).copied().unwrap_or(betas[0]);
        let with_first_variance = |values: &[f64]| -> Vec<f64> {
            std::iter::once(first_variance).chain(values.iter().copied().skip(1)).collect()
        };
        Self {
            sqrt_alphas_cumprod: map_alpha_bar(f64::sqrt),
            sqrt_one_minus_alphas_cumprod: map_alpha_bar(|a| (1.0 - a).sqrt()),
            log_one_minus_alphas_cumprod: map_alpha_bar(|a| (1.0 - a).ln()),
            sqrt_recip_alphas_cumprod: map_alpha_bar(|a| (1.0 / a).sqrt()),
            sqrt_recipm1_alphas_cumprod: map_alpha_bar(|a| (1.0 / a - 1.0).sqrt()),
            posterior_log_variance_clipped: with_first_variance(&posterior_variance).into_iter().map(f64::ln).collect(),
            posterior_mean_coef1: map_steps(|beta, now, prev| beta * prev.sqrt() / (1.0 - now)),
            posterior_mean_coef2: map_steps(|beta, now, prev| (1.0 - prev) * (1.0 - beta).sqrt() / (1.0 - now)),
            fixed_large_variance: with_first_variance(&betas),
            posterior_variance,
            alphas_cumprod,
            alphas_cumprod_prev,
            alphas_cumprod_next,
            betas,
        }
    }

    /// The number of steps.
    #[must_use]
    pub fn num_timesteps(&self) -> usize {
        self.betas.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_betas_end_at_the_same_noise_for_every_number_of_steps() {
        for num_timesteps in [100, 1000, 4000] {
            let schedule = Schedule::new(betas(NoiseSchedule::Linear, num_timesteps));
            let last = schedule.alphas_cumprod[num_timesteps - 1].ln();
            assert!((-11.5..-10.0).contains(&last), "{num_timesteps} steps: {last}");
        }
    }

    #[test]
    fn cosine_betas_are_capped() {
        let betas = betas(NoiseSchedule::Cosine, 1000);
        assert_eq!(betas[999], MAX_BETA);
        assert!(betas.iter().all(|beta| (0.0..=MAX_BETA).contains(beta)));
    }

    #[test]
    fn a_process_of_one_step_has_finite_coefficients() {
        let schedule = Schedule::new(vec![0.5]);
        assert_eq!(schedule.posterior_log_variance_clipped, [0.5f64.ln()]);
        assert_eq!(schedule.fixed_large_variance, [0.5]);
        assert_eq!(schedule.alphas_cumprod_next, [0.0]);
    }
}
