//! The section `evaluation` of a run's configuration.

use admiral_config::Invalid;
use serde::{Deserialize, Serialize};

/// How a run evaluates itself: every so many steps, each average draws images, whose metrics go to TensorBoard and the log.
/// Training does not depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Steps between two evaluations, which also follow the last step; 0 never evaluates.
    pub interval: u64,
    /// Images that each average draws, as `sampling` says. FID is only comparable at equal numbers.
    pub num_images: u64,
    /// The images to compare with, or their statistics: `training` or `validation` for those of the run, an npz file, a
    /// folder, an IDX file, or a file of `admiral evaluate statistics`.
    pub reference: String,
    /// The network of the features: `inception`, or the location of a classifier's checkpoint.
    pub features: String,
    /// The weights of Inception; null takes the file that the environment variable ADMIRAL_INCEPTION names.
    pub inception: Option<String>,
    /// Folder or bucket's URL, shared by all hosts, in which the features of the reference are kept; null: `evaluation` in the
    /// run's folder.
    pub work: Option<String>,
    /// Seed of the noise and the classes of the images, the same at each evaluation.
    pub seed: u64,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            interval: 0,
            num_images: 10_000,
            reference: "training".into(),
            features: "inception".into(),
            inception: None,
            work: None,
            seed: 0,
        }
    }
}

impl EvaluationConfig {
    /// Returns all mistakes. `draws_images` says whether the task of the run draws images from noise.
    #[must_use]
    pub fn validate(&self, draws_images: bool) -> Vec<Invalid> {
        let mut mistakes = Vec::new();
        if self.interval == 0 {
            return mistakes;
        }
        let mut check = |is_valid: bool, field: &str, message: &str| {
            if !is_valid {
                mistakes.push(Invalid::new(format!("evaluation.{field}"), message));
            }
        };
        check(draws_images, "interval", "must be 0: only runs of task diffusion draw images from noise");
        check((4..=1_000_000).contains(&self.num_images), "num_images", "must be from 4 to 1000000");
        check(!self.reference.trim().is_empty(), "reference", "must name images or statistics");
        check(!self.features.trim().is_empty(), "features", "must be inception or the location of a classifier");
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_never_evaluates_needs_nothing_and_others_name_their_mistakes() {
        assert_eq!(EvaluationConfig::default().validate(false), []);
        let wrong = EvaluationConfig {
            interval: 100,
            num_images: 3,
            reference: " ".into(),
            features: String::new(),
            ..EvaluationConfig::default()
        };
        let fields: Vec<String> = wrong.validate(false).into_iter().map(|mistake| mistake.field).collect();
        assert_eq!(
            fields,
            ["evaluation.interval", "evaluation.num_images", "evaluation.reference", "evaluation.features"]
        );
    }
}
