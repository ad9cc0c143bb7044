//! The options of solvers and their mistakes.

use serde::{Deserialize, Serialize};

use super::super::config::DiffusionConfig;
use super::super::respacing::RespacingError;
use super::levels::{Level, NoiseLevels, TimeGrid};
use super::update::{Interpolated, SolverType};

/// An option of some solvers. Its name is the field of [`SolverOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SolverOption {
    /// `timestep_respacing`
    TimestepRespacing,
    /// `eta`
    Eta,
    /// `steps`
    Steps,
    /// `time_grid`
    TimeGrid,
    /// `time_range`
    TimeRange,
    /// `noise_range`
    NoiseRange,
    /// `order`
    Order,
    /// `solver_type`
    SolverType,
    /// `interpolated`
    Interpolated,
    /// `lower_order_final`
    LowerOrderFinal,
    /// `denoise_to_zero`
    DenoiseToZero,
    /// `dynamic_thresholding`
    DynamicThresholding,
    /// `churn`
    Churn,
}

impl SolverOption {
    /// The name of the field.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TimestepRespacing => "timestep_respacing",
            Self::Eta => "eta",
            Self::Steps => "steps",
            Self::TimeGrid => "time_grid",
            Self::TimeRange => "time_range",
            Self::NoiseRange => "noise_range",
            Self::Order => "order",
            Self::SolverType => "solver_type",
            Self::Interpolated => "interpolated",
            Self::LowerOrderFinal => "lower_order_final",
            Self::DenoiseToZero => "denoise_to_zero",
            Self::DynamicThresholding => "dynamic_thresholding",
            Self::Churn => "churn",
        }
    }

    /// Whether configurations have the field. The others serve comparisons with published trajectories.
    #[must_use]
    pub fn is_in_configurations(self) -> bool {
        !matches!(self, Self::TimeRange | Self::NoiseRange | Self::Interpolated)
    }
}

/// Dynamic thresholding (Saharia et al. 2022, section 2.3): the predicted image is clamped to the quantile of its
/// absolute values and divided by it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicThresholding {
    /// The quantile of an image's absolute values, above 0 and up to 1.
    pub quantile: f64,
    /// The smallest threshold: images within it are only clamped and divided by it. Above 0.
    pub max: f64,
}

impl Default for DynamicThresholding {
    fn default() -> Self {
        Self { quantile: 0.995, max: 1.0 }
    }
}

/// Noise that is added and removed again in each step of the Heun solver (Karras et al. 2022, algorithm 2). Noise
/// levels are those of sigma / alpha.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Churn {
    /// How much noise is added over all steps; 0 for none.
    pub amount: f64,
    /// The lowest noise level with added noise.
    pub sigma_min: f64,
    /// The highest noise level with added noise.
    pub sigma_max: f64,
    /// The deviation of the added noise; slightly above 1 makes up for detail that is lost.
    pub noise: f64,
}

impl Default for Churn {
    fn default() -> Self {
        Self { amount: 0.0, sigma_min: 0.0, sigma_max: 1e9, noise: 1.0 }
    }
}

/// The noise levels, as sigma / alpha, between which a Karras grid lies, and its exponent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseRange {
    /// The lowest level but 0.
    pub sigma_min: f64,
    /// The highest level.
    pub sigma_max: f64,
    /// The exponent: 1 spaces levels evenly, larger ones more densely near the images.
    pub rho: f64,
}

/// How the predicted x_0 is limited.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Thresholding {
    /// Not at all.
    None,
    /// By clamping to [-1, 1].
    Static,
    /// By the quantile of each image.
    Dynamic(DynamicThresholding),
}

/// The options of a solver. A solver takes some of them, listed in [`SolverEntry::options`](super::SolverEntry).
/// `None` is the solver's own default.
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
    /// The number of steps; for singlestep solvers, of evaluations.
    pub steps: Option<usize>,
    /// How noise levels are spaced.
    pub time_grid: Option<TimeGrid>,
    /// The first and the last time in [1 / N, 1], for a process of N timesteps.
    pub time_range: Option<(f64, f64)>,
    /// The first and the last noise level of Heun's grid.
    pub noise_range: Option<NoiseRange>,
    /// The order.
    pub order: Option<usize>,
    /// How the second-order term is computed.
    pub solver_type: Option<SolverType>,
    /// What is interpolated between evaluations.
    pub interpolated: Option<Interpolated>,
    /// Whether the last steps have lower orders.
    pub lower_order_final: Option<bool>,
    /// Whether one more evaluation at the end gives the predicted x_0.
    pub denoise_to_zero: Option<bool>,
    /// Limits x_0 by a quantile in place of [-1, 1].
    pub dynamic_thresholding: Option<DynamicThresholding>,
    /// Noise in the steps of the Heun solver.
    pub churn: Option<Churn>,
}

impl Default for SolverOptions {
    fn default() -> Self {
        Self {
            timestep_respacing: String::new(),
            eta: 0.0,
            clip_denoised: true,
            epsilon_temperature: 1.0,
            steps: None,
            time_grid: None,
            time_range: None,
            noise_range: None,
            order: None,
            solver_type: None,
            interpolated: None,
            lower_order_final: None,
            denoise_to_zero: None,
            dynamic_thresholding: None,
            churn: None,
        }
    }
}

impl SolverOptions {
    /// The process of training with the timesteps of `timestep_respacing`.
    pub(super) fn respaced(&self, process: &DiffusionConfig) -> DiffusionConfig {
        DiffusionConfig { timestep_respacing: self.timestep_respacing.clone(), ..process.clone() }
    }

    /// How x_0 is limited.
    pub(super) fn thresholding(&self) -> Thresholding {
        match self.dynamic_thresholding {
            Some(dynamic) => Thresholding::Dynamic(dynamic),
            None if self.clip_denoised => Thresholding::Static,
            None => Thresholding::None,
        }
    }

    /// The options that have a value, except `timestep_respacing`, which is empty for all timesteps.
    pub(super) fn given(&self) -> impl Iterator<Item = SolverOption> {
        [
            (self.eta != 0.0, SolverOption::Eta),
            (self.steps.is_some(), SolverOption::Steps),
            (self.time_grid.is_some(), SolverOption::TimeGrid),
            (self.time_range.is_some(), SolverOption::TimeRange),
            (self.noise_range.is_some(), SolverOption::NoiseRange),
            (self.order.is_some(), SolverOption::Order),
            (self.solver_type.is_some(), SolverOption::SolverType),
            (self.interpolated.is_some(), SolverOption::Interpolated),
            (self.lower_order_final.is_some(), SolverOption::LowerOrderFinal),
            (self.denoise_to_zero.is_some(), SolverOption::DenoiseToZero),
            (self.dynamic_thresholding.is_some(), SolverOption::DynamicThresholding),
            (self.churn.is_some(), SolverOption::Churn),
        ]
        .into_iter()
        .filter_map(|(given, option)| given.then_some(option))
    }

    /// The mistakes in values that are mistakes for every solver and a process of `num_timesteps`.
    pub(super) fn out_of_range(&self, num_timesteps: usize) -> Vec<SolverError> {
        let mut mistakes = Vec::new();
        let mut check = |good: bool, option: SolverOption, value: String, rule: String| {
            if !good {
                mistakes.push(SolverError::Value { option, value, rule });
            }
        };
        let eta = self.eta;
        check((0.0..=1.0).contains(&eta), SolverOption::Eta, eta.to_string(), "it must lie in [0, 1]".into());
        if let Some(steps) = self.steps {
            let rule = format!("it must lie in [1, {num_timesteps}], the timesteps of training");
            check((1..=num_timesteps).contains(&steps), SolverOption::Steps, steps.to_string(), rule);
        }
        if let Some((first, last)) = self.time_range {
            let earliest = 1.0 / num_timesteps as f64;
            let good = earliest <= last && last < first && first <= 1.0;
            let rule = format!("times must fall, within [{earliest}, 1]");
            check(good, SolverOption::TimeRange, format!("{first} to {last}"), rule);
        }
        if let Some(NoiseRange { sigma_min, sigma_max, rho }) = self.noise_range {
            let good =
                0.0 < sigma_min && sigma_min < sigma_max && sigma_max.is_finite() && 0.0 < rho && rho.is_finite();
            let value = format!("{sigma_min} to {sigma_max} with exponent {rho}");
            check(
                good,
                SolverOption::NoiseRange,
                value,
                "levels must rise and be above 0, as must be the exponent".into(),
            );
        }
        if let Some(DynamicThresholding { quantile, max }) = self.dynamic_thresholding {
            let good = 0.0 < quantile && quantile <= 1.0 && 0.0 < max && max.is_finite();
            let value = format!("{{quantile: {quantile}, max: {max}}}");
            let rule = "the quantile must lie in (0, 1], the maximum above 0".into();
            check(good, SolverOption::DynamicThresholding, value, rule);
        }
        if let Some(Churn { amount, sigma_min, sigma_max, noise }) = self.churn {
            let good = [amount, sigma_min, sigma_max, noise].iter().all(|v| v.is_finite() && *v >= 0.0);
            let value = format!("{{amount: {amount}, sigma_min: {sigma_min}, sigma_max: {sigma_max}, noise: {noise}}}");
            check(good, SolverOption::Churn, value, "its numbers must be 0 or more".into());
        }
        mistakes
    }
}

/// What a solver is prepared from: its options, with its defaults where they have none, and the process.
pub(super) struct Settings<'a> {
    pub(super) options: &'a SolverOptions,
    /// The process of training.
    pub(super) process: &'a DiffusionConfig,
    pub(super) steps: usize,
    pub(super) order: usize,
    pub(super) time_grid: TimeGrid,
}

impl Settings<'_> {
    /// Whether the last steps have lower orders.
    pub(super) fn lower_order_final(&self) -> bool {
        self.options.lower_order_final.unwrap_or(true)
    }

    /// Whether one more evaluation ends the sampling.
    pub(super) fn denoise_to_zero(&self) -> bool {
        self.options.denoise_to_zero.unwrap_or(false)
    }

    /// How the second-order term is computed.
    pub(super) fn solver_type(&self) -> SolverType {
        self.options.solver_type.unwrap_or(SolverType::Midpoint)
    }

    /// The first and the last level of sampling.
    pub(super) fn ends(&self, levels: &NoiseLevels) -> (Level, Level) {
        match self.options.time_range {
            Some((first, last)) => (levels.at_time(first), levels.at_time(last)),
            None => (levels.start(), levels.entry(0)),
        }
    }

    /// The grid of `steps` intervals.
    pub(super) fn grid(&self, levels: &NoiseLevels) -> Vec<Level> {
        let (first, last) = self.ends(levels);
        levels.divide(self.time_grid, first, last, self.steps)
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
    /// The process has a single timestep, and so no levels between its ends.
    #[error("is {solver}, which needs a process of 2 timesteps or more: use ddpm or ddim")]
    OneTimestep {
        /// The solver.
        solver: &'static str,
    },
    /// The network predicts the mean of a step of its own process.
    #[error(
        "is {solver}, which needs x_0 or ε at any noise level, and the network predicts previous_x, the mean of a step \
         of training: use ddpm or ddim"
    )]
    PreviousX {
        /// The solver.
        solver: &'static str,
    },
}

impl SolverError {
    /// The field with the mistake.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Name { .. } | Self::OneTimestep { .. } | Self::PreviousX { .. } => "sampler",
            Self::Respacing(_) => SolverOption::TimestepRespacing.name(),
            Self::Unknown { option, .. } | Self::Value { option, .. } => option.name(),
        }
    }
}
