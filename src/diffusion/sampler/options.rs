//! The options of solvers and their mistakes.

use super::super::config::DiffusionConfig;
use super::super::respacing::RespacingError;

/// An option of some solvers. Its name is the field of [`SolverOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SolverOption {
    /// `timestep_respacing`
    TimestepRespacing,
    /// `eta`
    Eta,
}

impl SolverOption {
    /// The name of the field.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TimestepRespacing => "timestep_respacing",
            Self::Eta => "eta",
        }
    }
}

/// The options of a solver. A solver takes some of them; [`SolverEntry::options`](super::table::SolverEntry) lists
/// which. Those without a value have the solver's own default.
#[derive(Debug, Clone, PartialEq)]
pub struct SolverOptions {
    /// The timesteps that are visited, as in [`DiffusionConfig::timestep_respacing`].
    pub timestep_respacing: String,
    /// The noise of DDIM relative to ancestral sampling.
    pub eta: f64,
    /// Whether the predicted x_0 is clamped to [-1, 1].
    pub clip_denoised: bool,
    /// The temperature by which the predicted ε is divided (the paper's appendix G). 1 has no effect.
    pub epsilon_temperature: f64,
}

impl Default for SolverOptions {
    fn default() -> Self {
        Self { timestep_respacing: String::new(), eta: 0.0, clip_denoised: true, epsilon_temperature: 1.0 }
    }
}

impl SolverOptions {
    /// The process of training with the timesteps of `timestep_respacing`.
    pub(super) fn respaced(&self, process: &DiffusionConfig) -> DiffusionConfig {
        DiffusionConfig { timestep_respacing: self.timestep_respacing.clone(), ..process.clone() }
    }

    /// The options that have a value, except `timestep_respacing`, which is empty for all timesteps.
    pub(super) fn given(&self) -> Vec<SolverOption> {
        [(self.eta != 0.0, SolverOption::Eta)]
            .into_iter()
            .filter(|(given, _)| *given)
            .map(|(_, option)| option)
            .collect()
    }

    /// The mistakes in values, whatever the solver.
    pub(super) fn out_of_range(&self) -> Vec<SolverError> {
        let mut mistakes = Vec::new();
        let mut check = |good: bool, option: SolverOption, value: String, rule: &str| {
            if !good {
                mistakes.push(SolverError::Value { option, value, rule: rule.to_owned() });
            }
        };
        check((0.0..=1.0).contains(&self.eta), SolverOption::Eta, self.eta.to_string(), "it must lie in [0, 1]");
        mistakes
    }
}

/// Options that describe no solver.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SolverError {
    /// The name of no solver.
    #[error("{name:?} is no sampler: use one of {known}")]
    Name {
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// The respacing does not fit the process.
    #[error(transparent)]
    Respacing(#[from] RespacingError),
    /// The solver does not take this option.
    #[error("is no option of {solver}, which takes {takes}: remove it, or choose another sampler")]
    Unknown {
        /// The option.
        option: SolverOption,
        /// The solver.
        solver: &'static str,
        /// The options that it takes.
        takes: String,
    },
    /// A value out of range.
    #[error("is {value}; {rule}")]
    Value {
        /// The option.
        option: SolverOption,
        /// The value.
        value: String,
        /// What values there are.
        rule: String,
    },
}

impl SolverError {
    /// The field with the mistake.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Name { .. } => "sampler",
            Self::Respacing(_) => SolverOption::TimestepRespacing.name(),
            Self::Unknown { option, .. } | Self::Value { option, .. } => option.name(),
        }
    }
}
