//! How training draws timesteps: all alike, or more often where the loss is large.

use serde::{Deserialize, Serialize};

use super::config::TimestepSamplerType;

/// The losses kept for each timestep.
const HISTORY_PER_TERM: usize = 10;

/// The share of draws that fall on all timesteps alike, so that none is ever forgotten.
const UNIFORM_PROBABILITY: f64 = 0.001;

/// Timesteps drawn for a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct DrawnTimesteps {
    /// A timestep for each sample.
    pub timesteps: Vec<i64>,
    /// What each sample's loss is multiplied with, so that its expectation is that of uniform draws.
    pub weights: Vec<f32>,
}

/// Draws timesteps, and learns from losses where its kind does.
#[derive(Debug, Clone, PartialEq)]
pub enum TimestepSampler {
    /// All timesteps alike.
    Uniform {
        /// The number of timesteps.
        num_timesteps: usize,
    },
    /// In proportion to the root of the mean squared loss (Nichol & Dhariwal 2021, section 3.3).
    LossSecondMoment(LossSecondMoment),
}

/// A sampler's state, as a checkpoint keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TimestepSamplerState {
    /// Uniform sampling remembers nothing.
    Uniform,
    /// What loss-aware sampling has seen.
    LossSecondMoment {
        /// For each timestep its newest losses, oldest first.
        losses: Vec<Vec<f64>>,
    },
}

/// Why a state does not fit a sampler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The state is of another kind of sampler.
    #[error(
        "the checkpoint's timestep sampler is {found}, the configuration's is {expected}: \
         set diffusion.timestep_sampler to {found}, or start a new run"
    )]
    Type {
        /// The checkpoint's.
        found: &'static str,
        /// The configuration's.
        expected: &'static str,
    },
    /// The state is of a process with another number of timesteps.
    #[error(
        "the checkpoint's timestep sampler has seen {found} timesteps, the configured process has {expected}: \
         set diffusion.diffusion_steps and diffusion.timestep_respacing as they were"
    )]
    NumTimesteps {
        /// The checkpoint's.
        found: usize,
        /// The process's.
        expected: usize,
    },
    /// More losses at a timestep than the sampler keeps.
    #[error("the checkpoint's timestep sampler holds {found} losses of timestep {timestep}, at most {most} are kept")]
    History {
        /// Which timestep.
        timestep: usize,
        /// How many losses the checkpoint holds of it.
        found: usize,
        /// How many the sampler keeps.
        most: usize,
    },
    /// A loss that is no number a loss can be.
    #[error("the checkpoint's timestep sampler holds a loss of timestep {timestep} that is not finite")]
    NotFinite {
        /// Which timestep.
        timestep: usize,
    },
}

impl TimestepSampler {
    /// A sampler that has seen nothing yet.
    #[must_use]
    pub fn new(kind: TimestepSamplerType, num_timesteps: usize) -> Self {
        match kind {
            TimestepSamplerType::Uniform => Self::Uniform { num_timesteps },
            TimestepSamplerType::LossSecondMoment => {
                Self::LossSecondMoment(LossSecondMoment::new(num_timesteps, HISTORY_PER_TERM, UNIFORM_PROBABILITY))
            }
        }
    }

    /// The timestep that each uniform number in [0, 1) falls to, and its importance weight.
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

    /// Whether [`update`](Self::update) changes anything, so that losses need to be gathered from all ranks.
    #[must_use]
    pub fn learns(&self) -> bool {
        matches!(self, Self::LossSecondMoment(_))
    }

    /// Learns from (timestep, unweighted loss) pairs. For all ranks to draw alike, each passes the pairs of all
    /// ranks, in the order of the samples. Losses that are not finite, those of a step that overflowed, are left out.
    pub fn update(&mut self, pairs: impl IntoIterator<Item = (i64, f64)>) {
        if let Self::LossSecondMoment(sampler) = self {
            sampler.update(pairs);
        }
    }

    /// What a checkpoint keeps.
    #[must_use]
    pub fn state(&self) -> TimestepSamplerState {
        match self {
            Self::Uniform { .. } => TimestepSamplerState::Uniform,
            Self::LossSecondMoment(sampler) => {
                TimestepSamplerState::LossSecondMoment { losses: sampler.losses.clone() }
            }
        }
    }

    /// Goes on from a checkpoint's state; on an error nothing is changed.
    ///
    /// # Errors
    /// Where the state is not one of this kind of sampler over this number of timesteps.
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

/// Draws timesteps in proportion to the root of the mean squared loss at each.
#[derive(Debug, Clone, PartialEq)]
pub struct LossSecondMoment {
    losses: Vec<Vec<f64>>,
    history_per_term: usize,
    uniform_probability: f64,
}

impl LossSecondMoment {
    /// Over `num_timesteps`, remembering the newest `history_per_term` losses of each; a draw is uniform with
    /// `uniform_probability`, and always until every timestep's history is full.
    #[must_use]
    pub fn new(num_timesteps: usize, history_per_term: usize, uniform_probability: f64) -> Self {
        Self { losses: vec![Vec::new(); num_timesteps], history_per_term, uniform_probability }
    }

    /// What draws are in proportion to, one number for each timestep: all 1 until every history is full, then
    /// probabilities.
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

    /// Remembers (timestep, loss) pairs in their order; a full history forgets its oldest loss.
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
    fn uniform_numbers_spread_evenly() {
        let sampler = TimestepSampler::new(TimestepSamplerType::Uniform, 4);
        let drawn = sampler.draw(&[0.0, 0.249, 0.25, 0.999_999_999]);
        assert_eq!(drawn.timesteps, [0, 0, 1, 3]);
        assert_eq!(drawn.weights, [1.0; 4]);
    }

    #[test]
    fn loss_aware_draws_are_uniform_until_every_timestep_is_known() {
        let mut sampler = TimestepSampler::new(TimestepSamplerType::LossSecondMoment, 4);
        sampler.update((0..39).map(|i| (i % 4, 5.0 * (i % 4) as f64)));
        let drawn = sampler.draw(&[0.1, 0.3, 0.6, 0.9]);
        assert_eq!(drawn.timesteps, [0, 1, 2, 3]);
        assert_eq!(drawn.weights, [1.0; 4]);
    }

    #[test]
    fn importance_weights_keep_the_expectation() {
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
    fn losses_that_overflowed_are_not_remembered() {
        let mut sampler = trained();
        let before = sampler.clone();
        sampler.update([(0, f64::NAN), (1, f64::INFINITY)]);
        assert_eq!(sampler, before);
    }

    #[test]
    fn a_state_goes_through_a_checkpoint_exactly() {
        let json = serde_json::to_string(&trained().state()).unwrap();
        let mut restored = TimestepSampler::new(TimestepSamplerType::LossSecondMoment, 4);
        restored.restore(serde_json::from_str(&json).unwrap()).unwrap();
        assert_eq!(restored, trained());
    }

    #[test]
    fn a_state_that_does_not_fit_is_refused_and_changes_nothing() {
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
