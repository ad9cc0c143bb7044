//! Samplers of training timesteps: uniform, or in proportion to the loss.

use serde::{Deserialize, Serialize};

use super::config::TimestepSamplerType;

/// The number of losses kept for each timestep.
const HISTORY_PER_TERM: usize = 10;

/// The probability of a uniform draw, so that each timestep is still drawn from time to time.
const UNIFORM_PROBABILITY: f64 = 0.001;

/// Timesteps drawn for a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct DrawnTimesteps {
    /// One timestep for each sample.
    pub timesteps: Vec<i64>,
    /// The importance weight of each sample's loss. The expectation of the weighted loss is the same as for uniform
    /// draws.
    pub weights: Vec<f32>,
}

/// Draws timesteps. Some kinds adapt to the losses.
#[derive(Debug, Clone, PartialEq)]
pub enum TimestepSampler {
    /// All timesteps with equal probability.
    Uniform {
        /// The number of timesteps.
        num_timesteps: usize,
    },
    /// In proportion to the root mean square of the losses (Nichol & Dhariwal 2021, section 3.3).
    LossSecondMoment(LossSecondMoment),
}

/// The state of a sampler in a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TimestepSamplerState {
    /// Uniform sampling has no state.
    Uniform,
    /// The losses seen by loss-aware sampling.
    LossSecondMoment {
        /// The most recent losses of each timestep, oldest first.
        losses: Vec<Vec<f64>>,
    },
}

/// A state that does not fit the sampler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The state belongs to another kind of sampler.
    #[error(
        "the checkpoint's timestep sampler is {found}, the configuration's is {expected}: \
         set diffusion.timestep_sampler to {found}, or start a new run"
    )]
    Type {
        /// The kind in the checkpoint.
        found: &'static str,
        /// The configured kind.
        expected: &'static str,
    },
    /// The state belongs to a process with another number of timesteps.
    #[error(
        "the checkpoint's timestep sampler has seen {found} timesteps, the configured process has {expected}: \
         set diffusion.diffusion_steps and diffusion.timestep_respacing as they were"
    )]
    NumTimesteps {
        /// The number in the checkpoint.
        found: usize,
        /// The number of the configured process.
        expected: usize,
    },
    /// The state has more losses of a timestep than the sampler keeps.
    #[error("the checkpoint's timestep sampler holds {found} losses of timestep {timestep}, at most {most} are kept")]
    History {
        /// The timestep.
        timestep: usize,
        /// The number of its losses in the checkpoint.
        found: usize,
        /// The number of losses that the sampler keeps.
        most: usize,
    },
    /// A loss is NaN or infinite.
    #[error("the checkpoint's timestep sampler holds a loss of timestep {timestep} that is not finite")]
    NotFinite {
        /// The timestep.
        timestep: usize,
    },
}

impl TimestepSampler {
    /// Creates a sampler without any losses.
    #[must_use]
    pub fn new(kind: TimestepSamplerType, num_timesteps: usize) -> Self {
        match kind {
            TimestepSamplerType::Uniform => Self::Uniform { num_timesteps },
            TimestepSamplerType::LossSecondMoment => {
                Self::LossSecondMoment(LossSecondMoment::new(num_timesteps, HISTORY_PER_TERM, UNIFORM_PROBABILITY))
            }
        }
    }

    /// Returns a timestep and its importance weight for each uniform number in [0, 1).
    #[must_use]
    pub fn draw(&self, uniform_numbers: &[f64]) -> DrawnTimesteps {
        match self {
            Self::Uniform { num_timesteps } => DrawnTimesteps {
                timesteps: uniform_numbers
                    .iter()
                    .map(|u| ((u * *num_timesteps as f64) as usize).min(num_timesteps - 1) as i64)
                    .collect(),
                weights: vec![1.0; uniform_numbers.len()],
            },
            Self::LossSecondMoment(sampler) => sampler.draw(uniform_numbers),
        }
    }

    /// Whether [`update`](Self::update) has an effect, which requires the losses of all ranks.
    #[must_use]
    pub fn learns(&self) -> bool {
        matches!(self, Self::LossSecondMoment(_))
    }

    /// Adds (timestep, unweighted loss) pairs. Each rank passes the pairs of all ranks in the order of the samples, so
    /// that all ranks have the same distribution. Losses that are not finite, as after an overflow, are ignored.
    pub fn update(&mut self, pairs: impl IntoIterator<Item = (i64, f64)>) {
        if let Self::LossSecondMoment(sampler) = self {
            sampler.update(pairs);
        }
    }

    /// Returns the state for a checkpoint.
    #[must_use]
    pub fn state(&self) -> TimestepSamplerState {
        match self {
            Self::Uniform { .. } => TimestepSamplerState::Uniform,
            Self::LossSecondMoment(sampler) => {
                TimestepSamplerState::LossSecondMoment { losses: sampler.losses.clone() }
            }
        }
    }

    /// Restores the state of a checkpoint. After an error the sampler is unchanged.
    ///
    /// # Errors
    /// If the state belongs to another kind of sampler or another number of timesteps, or has invalid losses.
    pub fn restore(&mut self, state: TimestepSamplerState) -> Result<(), StateError> {
        match (self, state) {
            (Self::Uniform { .. }, TimestepSamplerState::Uniform) => Ok(()),
            (Self::LossSecondMoment(sampler), TimestepSamplerState::LossSecondMoment { losses }) => {
                sampler.restore(losses)
            }
            (Self::Uniform { .. }, _) => Err(StateError::Type { found: "loss-second-moment", expected: "uniform" }),
            (Self::LossSecondMoment(_), _) => {
                Err(StateError::Type { found: "uniform", expected: "loss-second-moment" })
            }
        }
    }
}

/// Draws timesteps in proportion to the root mean square of their recent losses.
#[derive(Debug, Clone, PartialEq)]
pub struct LossSecondMoment {
    losses: Vec<Vec<f64>>,
    history_per_term: usize,
    uniform_probability: f64,
}

impl LossSecondMoment {
    /// Creates a sampler over `num_timesteps` that keeps the most recent `history_per_term` losses of each. A draw is
    /// uniform with probability `uniform_probability`. All draws are uniform until the history of every timestep is
    /// full.
    #[must_use]
    pub fn new(num_timesteps: usize, history_per_term: usize, uniform_probability: f64) -> Self {
        Self { losses: vec![Vec::new(); num_timesteps], history_per_term, uniform_probability }
    }

    /// Returns the relative probability of each timestep: 1 for all until every history is full, then values that sum
    /// to 1.
    #[must_use]
    pub fn weights(&self) -> Vec<f64> {
        if self.losses.iter().any(|losses| losses.len() < self.history_per_term) {
            return vec![1.0; self.losses.len()];
        }
        let roots: Vec<f64> = self
            .losses
            .iter()
            .map(|losses| (losses.iter().map(|loss| loss * loss).sum::<f64>() / losses.len() as f64).sqrt())
            .collect();
        let total: f64 = roots.iter().sum();
        if total == 0.0 {
            return vec![1.0; self.losses.len()];
        }
        let floor = self.uniform_probability / self.losses.len() as f64;
        roots.iter().map(|root| root / total * (1.0 - self.uniform_probability) + floor).collect()
    }

    fn draw(&self, uniform_numbers: &[f64]) -> DrawnTimesteps {
        let weights = self.weights();
        let sums: Vec<f64> = weights
            .iter()
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        let (num_timesteps, total) = (weights.len(), sums[weights.len() - 1]);
        let drawn = uniform_numbers.iter().map(|u| {
            let timestep = sums.partition_point(|&sum| sum <= u * total).min(num_timesteps - 1);
            let probability = weights[timestep] / total;
            (timestep as i64, (1.0 / (num_timesteps as f64 * probability)) as f32)
        });
        let (timesteps, weights) = drawn.unzip();
        DrawnTimesteps { timesteps, weights }
    }

    /// Adds (timestep, loss) pairs in their order. A full history drops its oldest loss.
    pub fn update(&mut self, pairs: impl IntoIterator<Item = (i64, f64)>) {
        for (timestep, loss) in pairs.into_iter().filter(|(_, loss)| loss.is_finite()) {
            let losses = &mut self.losses[timestep as usize];
            if losses.len() == self.history_per_term {
                losses.remove(0);
            }
            losses.push(loss);
        }
    }

    fn restore(&mut self, losses: Vec<Vec<f64>>) -> Result<(), StateError> {
        if losses.len() != self.losses.len() {
            return Err(StateError::NumTimesteps { found: losses.len(), expected: self.losses.len() });
        }
        for (timestep, history) in losses.iter().enumerate() {
            if history.len() > self.history_per_term {
                let (found, most) = (history.len(), self.history_per_term);
                return Err(StateError::History { timestep, found, most });
            }
            if history.iter().any(|loss| !loss.is_finite()) {
                return Err(StateError::NotFinite { timestep });
            }
        }
        self.losses = losses;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn trained() -> TimestepSampler {
        let mut sampler = TimestepSampler::new(TimestepSamplerType::LossSecondMoment, 4);
        sampler.update((0..40).map(|i| (i % 4, 0.1 + (i % 4) as f64)));
        sampler
    }

    #[test]
    fn uniform_draws_divide_the_unit_interval_evenly() {
        let sampler = TimestepSampler::new(TimestepSamplerType::Uniform, 4);
        let drawn = sampler.draw(&[0.0, 0.249, 0.25, 0.999_999_999]);
        assert_eq!(drawn.timesteps, [0, 0, 1, 3]);
        assert_eq!(drawn.weights, [1.0; 4]);
    }

    #[test]
    fn loss_aware_draws_are_uniform_until_every_history_is_full() {
        let mut sampler = TimestepSampler::new(TimestepSamplerType::LossSecondMoment, 4);
        sampler.update((0..39).map(|i| (i % 4, 5.0 * (i % 4) as f64)));
        let drawn = sampler.draw(&[0.1, 0.3, 0.6, 0.9]);
        assert_eq!(drawn.timesteps, [0, 1, 2, 3]);
        assert_eq!(drawn.weights, [1.0; 4]);
    }

    #[test]
    fn importance_weights_preserve_the_expectation() {
        let numbers: Vec<f64> = (0..10_000).map(|i| (f64::from(i) + 0.5) / 10_000.0).collect();
        let drawn = trained().draw(&numbers);
        let mut sums = [0.0f64; 4];
        for (&t, &weight) in drawn.timesteps.iter().zip(&drawn.weights) {
            sums[t as usize] += f64::from(weight) / 10_000.0;
        }
        assert!(sums.iter().all(|sum| (sum - 0.25).abs() < 1e-2), "{sums:?}");
        let last = drawn.timesteps.iter().filter(|&&t| t == 3).count();
        assert!(last > 4500, "the timestep of the largest loss was drawn {last} times");
    }

    #[test]
    fn losses_that_are_not_finite_are_ignored() {
        let mut sampler = trained();
        let before = sampler.clone();
        sampler.update([(0, f64::NAN), (1, f64::INFINITY)]);
        assert_eq!(sampler, before);
    }

    #[test]
    fn a_state_survives_a_checkpoint_exactly() {
        let json = serde_json::to_string(&trained().state()).unwrap();
        let mut restored = TimestepSampler::new(TimestepSamplerType::LossSecondMoment, 4);
        restored.restore(serde_json::from_str(&json).unwrap()).unwrap();
        assert_eq!(restored, trained());
    }

    #[test]
    fn an_invalid_state_is_refused_and_changes_nothing() {
        let mut sampler = trained();
        let of = |losses| TimestepSamplerState::LossSecondMoment { losses };
        assert!(matches!(sampler.restore(TimestepSamplerState::Uniform), Err(StateError::Type { .. })));
        assert_eq!(sampler.restore(of(vec![])), Err(StateError::NumTimesteps { found: 0, expected: 4 }));
        let long = vec![vec![], vec![0.0; 11], vec![], vec![]];
        assert_eq!(sampler.restore(of(long)), Err(StateError::History { timestep: 1, found: 11, most: 10 }));
        let infinite = vec![vec![], vec![], vec![f64::INFINITY], vec![]];
        assert_eq!(sampler.restore(of(infinite)), Err(StateError::NotFinite { timestep: 2 }));
        assert_eq!(sampler, trained());
        let mut uniform = TimestepSampler::new(TimestepSamplerType::Uniform, 4);
        assert!(uniform.restore(trained().state()).is_err());
    }
}
