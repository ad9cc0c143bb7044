//! The `diffusion` section of a run's configuration.

use serde::{Deserialize, Serialize};

use super::respacing::{RespacingError, retained_timesteps};
use admiral_config::Invalid;

/// The least number of steps at which the linear schedule's last beta, 20 / steps, stays below 1.
const MIN_LINEAR_STEPS: usize = 21;

/// How beta grows with the timestep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoiseSchedule {
    /// From 0.0001 to 0.02 at 1000 steps, scaled so that other numbers of steps end at the same noise.
    Linear,
    /// alpha_bar(t) = cos²((t + 0.008) / 1.008 · π/2).
    Cosine,
}

/// What the network predicts, from which the mean of p(x_{t-1} | x_t) follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise ε.
    Epsilon,
    /// The clean image x_0.
    XStart,
    /// The mean of x_{t-1} itself.
    PreviousX,
}

/// The variance of p(x_{t-1} | x_t).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// The network says where between the two fixed ones the log variance lies (the paper's equation 3).
    LearnedRange,
    /// The network gives the log variance itself.
    Learned,
    /// That of q(x_{t-1} | x_t, x_0).
    FixedSmall,
    /// beta_t.
    FixedLarge,
}

impl Variance {
    /// Whether the network has to give it, in as many channels again as the image has.
    #[must_use]
    pub fn is_learned(self) -> bool {
        matches!(self, Self::LearnedRange | Self::Learned)
    }
}

/// What training minimises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Mean squared error, plus the variational bound for a learned variance.
    Mse,
    /// As `mse`, with the bound times steps / 1000, so that its weight does not depend on the number of steps.
    RescaledMse,
    /// The variational bound, in bits.
    Kl,
    /// The bound times the number of steps, which estimates the sum over all steps.
    RescaledKl,
}

/// How training draws timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TimestepSamplerType {
    /// All alike.
    Uniform,
    /// In proportion to the root of the mean squared loss seen at each, reweighted to stay unbiased.
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
    /// Which timesteps are kept: empty for all, `250`, one number for each of equal sections (`90,60,60,20,20`), or
    /// `ddim25` for a fixed stride.
    pub timestep_respacing: String,
    /// What the network predicts: `epsilon`, `x_start` (the reference's `predict_xstart: true`) or `previous_x`.
    pub predict: Prediction,
    /// The variance of a step: `learned_range` (the reference's `learn_sigma: true`), `learned`, `fixed_small` (its
    /// `sigma_small: true`) or `fixed_large`.
    pub variance: Variance,
    /// What is minimised: `mse`, `rescaled_mse` (the reference's `rescale_learned_sigmas: true`), `kl` or
    /// `rescaled_kl` (its `use_kl: true`).
    pub loss: LossType,
    /// Whether the network sees timesteps scaled to 0..1000 whatever the number of steps.
    pub rescale_timesteps: bool,
    /// How training draws timesteps: `uniform` or `loss-second-moment`.
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
    /// Whether the network gives a variance beside its prediction, and so has twice the image's channels.
    #[must_use]
    pub fn learns_variance(&self) -> bool {
        self.variance.is_learned()
    }

    /// The timesteps of the full process that are kept, ascending.
    ///
    /// # Errors
    /// Where `timestep_respacing` does not fit `diffusion_steps`.
    pub fn retained_timesteps(&self) -> Result<Vec<usize>, RespacingError> {
        retained_timesteps(self.diffusion_steps, &self.timestep_respacing)
    }

    /// What cannot work, with field paths from the top of the file.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        let mut invalid = Vec::new();
        let steps = self.diffusion_steps;
        if self.noise_schedule == NoiseSchedule::Linear && steps < MIN_LINEAR_STEPS {
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
    fn the_default_is_valid_and_learns_its_variance() {
        assert_eq!(DiffusionConfig::default().validate(), []);
        assert!(DiffusionConfig::default().learns_variance());
    }

    #[test]
    fn too_few_linear_steps_are_refused() {
        let mut config = DiffusionConfig { diffusion_steps: 20, ..Default::default() };
        assert_eq!(fields(&config), ["diffusion.diffusion_steps"]);
        config.noise_schedule = NoiseSchedule::Cosine;
        assert_eq!(fields(&config), [""; 0]);
        config.diffusion_steps = 0;
        assert_eq!(fields(&config), ["diffusion.diffusion_steps"]);
    }

    #[test]
    fn respacing_that_does_not_fit_is_refused_by_its_field() {
        let config = DiffusionConfig { timestep_respacing: "1001".into(), ..Default::default() };
        assert_eq!(fields(&config), ["diffusion.timestep_respacing"]);
    }

    #[test]
    fn names_in_files_are_stable() {
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
