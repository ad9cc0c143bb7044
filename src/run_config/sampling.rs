//! The section `sampling` of a run's configuration.

use admiral_config::Invalid;
use serde::{Deserialize, Serialize};

use crate::diffusion::{DiffusionConfig, Method};

/// Which sampler takes the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// Ancestral sampling (Ho et al. 2020).
    Ddpm,
    /// Deterministic sampling (Song et al. 2021); with eta above 0 partly random.
    Ddim,
}

/// How samples are drawn: the grids of a run, and what `admiral sample` does unless told otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// The sampler: ddpm or ddim.
    pub sampler: Sampler,
    /// Which timesteps are visited: `250`, `ddim25`, sections as `90,60,60,20,20`, or empty for all.
    pub timestep_respacing: String,
    /// Noise of ddim: 0 has none, 1 as much as ddpm.
    pub eta: f64,
    /// Clamps predicted images to the range of images.
    pub clip_denoised: bool,
    /// Images of one class in a grid; without classes, the rows and columns of the grid.
    pub samples_per_class: u64,
    /// Most classes in a grid, from the first.
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
    /// The sampler with its noise.
    #[must_use]
    pub fn method(&self) -> Method {
        match self.sampler {
            Sampler::Ddpm => Method::Ddpm,
            Sampler::Ddim => Method::Ddim { eta: self.eta },
        }
    }

    /// The process that sampling follows: that of training, at fewer timesteps.
    #[must_use]
    pub fn respaced(&self, training: &DiffusionConfig) -> DiffusionConfig {
        DiffusionConfig { timestep_respacing: self.timestep_respacing.clone(), ..training.clone() }
    }

    /// Everything that cannot work with the process of training.
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
    fn what_cannot_work_is_named() {
        let training = DiffusionConfig::default();
        assert_eq!(SamplingConfig::default().validate(&training), []);
        let config = SamplingConfig { eta: 2.0, timestep_respacing: "ddim999".into(), ..SamplingConfig::default() };
        let fields: Vec<String> = config.validate(&training).into_iter().map(|mistake| mistake.field).collect();
        assert_eq!(fields, ["sampling.eta", "sampling.timestep_respacing"]);
    }
}
