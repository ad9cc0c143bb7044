//! The `diffusion` section of a run's configuration.

use serde::{Deserialize, Serialize};

use super::respacing::{RespacingError, retained_timesteps};
use admiral_config::Invalid;

/// The most steps. The paper has 1000.
const MAX_STEPS: usize = 1_000_000;

/// The smallest number of steps for which the last beta of the linear schedule, 20 / steps, is below 1.
const MIN_LINEAR_STEPS: usize = 21;

/// The noise schedule: how beta grows with the timestep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoiseSchedule {
    /// Linear from 0.0001 to 0.02 for 1000 steps. Scaled for other numbers of steps, so that x_T has the same noise
    /// level.
    Linear,
    /// alpha_bar(t) = cos²((t + 0.008) / 1.008 · π/2).
    Cosine,
}

/// The network's prediction, from which the mean of p(x_{t-1} | x_t) is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise ε.
    Epsilon,
    /// The clean image x_0.
    XStart,
    /// The mean of p(x_{t-1} | x_t).
    PreviousX,
}

/// The variance of p(x_{t-1} | x_t).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// The network interpolates the log variance between the two fixed ones (the paper's equation 3).
    LearnedRange,
    /// The network outputs the log variance.
    Learned,
    /// The variance of the posterior q(x_{t-1} | x_t, x_0).
    FixedSmall,
    /// beta_t.
    FixedLarge,
}

impl Variance {
    /// Whether the network outputs the variance. Its output then has twice the channels of the image.
    #[must_use]
    pub fn is_learned(self) -> bool {
        matches!(self, Self::LearnedRange | Self::Learned)
    }
}

/// The training loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// The mean squared error, plus the variational bound if the variance is learned.
    Mse,
    /// As `mse`, with the bound multiplied by steps / 1000, so that its weight does not depend on the number of steps.
    RescaledMse,
    /// The variational bound, in bits.
    Kl,
    /// The bound multiplied by the number of steps, an estimate of the sum over all steps.
    RescaledKl,
}

/// The distribution of training timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TimestepSamplerType {
    /// The uniform distribution.
    Uniform,
    /// Proportional to the root mean square of the recent losses at each timestep. Importance weights keep the loss
    /// unbiased.
    LossSecondMoment,
}

/// The diffusion process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiffusionConfig {
    /// The number of timesteps of the full process.
    pub diffusion_steps: usize,
    /// How beta grows with the timestep: `linear` or `cosine`.
    pub noise_schedule: NoiseSchedule,
    /// The timesteps that are kept: all if empty; `250` for a number of evenly spaced ones; `90,60,60,20,20` for one
    /// number for each of equal sections; `ddim25` for a fixed stride.
    pub timestep_respacing: String,
    /// The network's prediction: `epsilon`, `x_start` (the reference's `predict_xstart: true`) or `previous_x`.
    pub predict: Prediction,
    /// The variance of a step: `learned_range` (the reference's `learn_sigma: true`), `learned`, `fixed_small` (the
    /// reference's `sigma_small: true`) or `fixed_large`.
    pub variance: Variance,
    /// The training loss: `mse`, `rescaled_mse` (the reference's `rescale_learned_sigmas: true`), `kl` or `rescaled_kl`
    /// (the reference's `use_kl: true`).
    pub loss: LossType,
    /// Whether the timesteps that the network receives are scaled to 0..1000 for every number of steps.
    pub rescale_timesteps: bool,
    /// The distribution of training timesteps: `uniform` or `loss-second-moment`.
    pub timestep_sampler: TimestepSamplerType,
}

impl Default for DiffusionConfig {
    fn default() -> Self {
        Self {
            diffusion_steps: 1000,
            noise_schedule: NoiseSchedule::Linear,
            timestep_respacing: String::new(),
            predict: Prediction::Epsilon,
            variance: Variance::LearnedRange,
            loss: LossType::Mse,
            rescale_timesteps: false,
            timestep_sampler: TimestepSamplerType::Uniform,
        }
    }
}

impl DiffusionConfig {
    /// Whether the network also outputs the variance. Its output then has twice the channels of the image.
    #[must_use]
    pub fn learns_variance(&self) -> bool {
        self.variance.is_learned()
    }

    /// The factor between indices of the full process and the timesteps that networks receive.
    #[must_use]
    pub fn timestep_scale(&self) -> f64 {
        if self.rescale_timesteps { 1000.0 / self.diffusion_steps as f64 } else { 1.0 }
    }

    /// Returns the timesteps of the full process that are kept, ascending.
    ///
    /// # Errors
    /// If `timestep_respacing` does not fit `diffusion_steps`.
    pub fn retained_timesteps(&self) -> Result<Vec<usize>, RespacingError> {
        retained_timesteps(self.diffusion_steps, &self.timestep_respacing)
    }

    /// Returns the mistakes in this section, with field paths from the top of the file.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        let mut invalid = Vec::new();
        let steps = self.diffusion_steps;
        if steps > MAX_STEPS {
            invalid.push(Invalid::new("diffusion.diffusion_steps", format!("is {steps}; at most {MAX_STEPS}")));
        } else if self.noise_schedule == NoiseSchedule::Linear && steps < MIN_LINEAR_STEPS {
            invalid.push(Invalid::new(
                "diffusion.diffusion_steps",
                format!(
                    "{steps} is too few for the linear schedule, whose last beta would be 20/{steps}: \
                     use at least {MIN_LINEAR_STEPS}, or noise_schedule: cosine"
                ),
            ));
        } else if steps == 0 {
            invalid.push(Invalid::new("diffusion.diffusion_steps", "0 steps are no process: use at least 1"));
        } else if let Err(error) = self.retained_timesteps() {
            invalid.push(Invalid::new("diffusion.timestep_respacing", error.to_string()));
        }
        invalid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(config: &DiffusionConfig) -> Vec<String> {
        config.validate().into_iter().map(|invalid| invalid.field).collect()
    }

    #[test]
    fn the_default_is_valid_and_learns_the_variance() {
        assert_eq!(DiffusionConfig::default().validate(), []);
        assert!(DiffusionConfig::default().learns_variance());
    }

    #[test]
    fn too_few_steps_for_the_linear_schedule_are_refused() {
        let mut config = DiffusionConfig { diffusion_steps: 20, ..Default::default() };
        assert_eq!(fields(&config), ["diffusion.diffusion_steps"]);
        config.noise_schedule = NoiseSchedule::Cosine;
        assert_eq!(fields(&config), [""; 0]);
        config.diffusion_steps = 0;
        assert_eq!(fields(&config), ["diffusion.diffusion_steps"]);
    }

    #[test]
    fn invalid_respacing_is_reported_at_its_field() {
        let config = DiffusionConfig { timestep_respacing: "1001".into(), ..Default::default() };
        assert_eq!(fields(&config), ["diffusion.timestep_respacing"]);
    }

    #[test]
    fn serialized_names_are_stable() {
        let json = serde_json::to_value(DiffusionConfig::default()).expect("a configuration is plain data");
        assert_eq!(json["noise_schedule"], "linear");
        assert_eq!(json["variance"], "learned_range");
        assert_eq!(json["loss"], "mse");
        assert_eq!(
            serde_json::to_value(TimestepSamplerType::LossSecondMoment).expect("plain data"),
            "loss-second-moment"
        );
    }
}
