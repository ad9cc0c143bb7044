//! The section `sampling` of a run's configuration.

use admiral_config::Invalid;
use serde::{Deserialize, Serialize};

use crate::diffusion::{DiffusionConfig, Method};

/// The sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// Ancestral sampling (Ho et al. 2020).
    Ddpm,
    /// Deterministic sampling (Song et al. 2021), partly random with eta above 0.
    Ddim,
}

/// How samples are drawn: the grids of a run, and what `admiral sample` does unless told otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// The sampler: ddpm or ddim.
    pub sampler: Sampler,
    /// Timesteps that are visited: `250`, `ddim25`, sections such as `90,60,60,20,20`, or empty for all.
    pub timestep_respacing: String,
    /// Noise of ddim: 0 for none, 1 for as much as ddpm.
    pub eta: f64,
    /// Clamps predicted images to the range of images.
    pub clip_denoised: bool,
    /// Images of each class in a grid; without classes, the number of rows and of columns.
    pub samples_per_class: u64,
    /// Maximum number of classes in a grid, starting from the first.
    pub max_classes: u64,
    /// Images that are drawn together.
    pub batch_size: u64,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            sampler: Sampler::Ddim,
            timestep_respacing: "ddim25".into(),
            eta: 0.0,
            clip_denoised: true,
            samples_per_class: 8,
            max_classes: 10,
            batch_size: 16,
        }
    }
}

impl SamplingConfig {
    /// Returns the sampling method with its noise.
    #[must_use]
    pub fn method(&self) -> Method {
        match self.sampler {
            Sampler::Ddpm => Method::Ddpm,
            Sampler::Ddim => Method::Ddim { eta: self.eta },
        }
    }

    /// Returns the diffusion process for sampling: that of training, with the timesteps of `timestep_respacing`.
    #[must_use]
    pub fn respaced(&self, training: &DiffusionConfig) -> DiffusionConfig {
        DiffusionConfig { timestep_respacing: self.timestep_respacing.clone(), ..training.clone() }
    }

    /// Returns all mistakes, for the given diffusion process of training.
    #[must_use]
    pub fn validate(&self, training: &DiffusionConfig) -> Vec<Invalid> {
        let mut mistakes = Vec::new();
        let mut check = |good: bool, field: &str, message: String| {
            if !good {
                mistakes.push(Invalid::new(format!("sampling.{field}"), message));
            }
        };
        check((0.0..=1.0).contains(&self.eta), "eta", format!("is {}; it must lie in [0, 1]", self.eta));
        check(self.samples_per_class > 0, "samples_per_class", "must be at least 1".into());
        check(self.max_classes > 0, "max_classes", "must be at least 1".into());
        check(self.batch_size > 0, "batch_size", "must be at least 1".into());
        if let Err(error) = self.respaced(training).retained_timesteps() {
            check(false, "timestep_respacing", error.to_string());
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_name_their_field() {
        let training = DiffusionConfig::default();
        assert_eq!(SamplingConfig::default().validate(&training), []);
        let config = SamplingConfig { eta: 2.0, timestep_respacing: "ddim999".into(), ..SamplingConfig::default() };
        let fields: Vec<String> = config.validate(&training).into_iter().map(|mistake| mistake.field).collect();
        assert_eq!(fields, ["sampling.eta", "sampling.timestep_respacing"]);
    }
}
