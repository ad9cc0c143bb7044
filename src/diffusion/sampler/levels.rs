//! Noise levels at any time between the timesteps of the process, and grids of them.

use serde::{Deserialize, Serialize};

use super::super::config::DiffusionConfig;
use super::super::schedule::{Schedule, betas};

/// The exponent of Karras grids (Karras et al. 2022, section 3).
pub(super) const KARRAS_RHO: f64 = 7.0;

/// The log signal-to-noise ratio at which sampling starts. More noise leaves nothing of the image, and the cosine
/// schedule has much more at its last timesteps.
const LAMBDA_START: f64 = -5.1;

/// How noise levels are spaced between the first and the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeGrid {
    /// Evenly in time.
    Uniform,
    /// Evenly in the square root of time: more steps near the images.
    Quadratic,
    /// Evenly in the logarithm of the signal-to-noise ratio.
    Logsnr,
    /// Evenly in the seventh root of sigma / alpha (Karras et al. 2022).
    Karras,
}

impl TimeGrid {
    /// The name in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Quadratic => "quadratic",
            Self::Logsnr => "logsnr",
            Self::Karras => "karras",
        }
    }
}

/// A noise level of the variance-preserving process, x_t = alpha x_0 + sigma ε with alpha² + sigma² = 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// The index of the full process, from 0; not always whole. -1 where there is no noise.
    pub index: f64,
    /// The timestep that networks receive: the index, scaled if the configuration requests it.
    pub model_timestep: f64,
    /// The factor of x_0.
    pub alpha: f64,
    /// The factor of the noise.
    pub sigma: f64,
    /// ln(alpha / sigma), half the logarithm of the signal-to-noise ratio. Infinite without noise.
    pub lambda: f64,
}

impl Level {
    /// The end of the process: x_0 itself.
    pub const CLEAN: Self = Self { index: -1.0, model_timestep: -1.0, alpha: 1.0, sigma: 0.0, lambda: f64::INFINITY };

    /// The level with this ln alpha at `index`. `scale` converts the index to the network's timestep.
    pub(super) fn new(log_alpha: f64, index: f64, scale: f64) -> Self {
        // 1 - alpha² cancels near the images.
        let sigma = (-(2.0 * log_alpha).exp_m1()).sqrt();
        let lambda = log_alpha - sigma.ln();
        Self { index, model_timestep: index * scale, alpha: log_alpha.exp(), sigma, lambda }
    }

    /// sigma / alpha, the noise level of the variance-exploding process.
    #[must_use]
    pub fn sigma_ve(&self) -> f64 {
        self.sigma / self.alpha
    }
}

/// The noise levels of the full process as functions of time. Time t in (0, 1] has the index t N - 1 of a process of N
/// timesteps; ln alpha is linear in t between the timesteps (Lu et al. 2022, appendix D).
#[derive(Debug, Clone)]
pub struct NoiseLevels {
    log_alphas: Vec<f64>,
    alphas_cumprod: Vec<f64>,
    timestep_scale: f64,
}

impl NoiseLevels {
    /// The levels of the process of training, without respacing.
    #[must_use]
    pub fn new(process: &DiffusionConfig) -> Self {
        let alphas_cumprod = Schedule::new(betas(process.noise_schedule, process.diffusion_steps)).alphas_cumprod;
        let log_alphas = alphas_cumprod.iter().map(|alpha_bar| 0.5 * alpha_bar.ln()).collect();
        Self { log_alphas, alphas_cumprod, timestep_scale: process.timestep_scale() }
    }

    /// The number of timesteps of the process.
    pub(super) fn len(&self) -> usize {
        self.log_alphas.len()
    }

    /// The level of a timestep.
    pub(super) fn entry(&self, index: usize) -> Level {
        Level::new(self.log_alphas[index], index as f64, self.timestep_scale)
    }

    /// The level at time t in \[1 / N, 1\].
    pub(super) fn at_time(&self, t: f64) -> Level {
        self.at_index(t * self.len() as f64 - 1.0)
    }

    /// The level at an index in \[0, N - 1\].
    #[must_use]
    pub fn at_index(&self, index: f64) -> Level {
        Level::new(interpolate(&self.log_alphas, index), index, self.timestep_scale)
    }

    /// The level at an index, with alpha² linear between the timesteps.
    pub(super) fn at_index_linear(&self, index: f64) -> Level {
        let alpha_bar = interpolate(&self.alphas_cumprod, index);
        Level::new(0.5 * alpha_bar.ln(), index, self.timestep_scale)
    }

    /// alpha² at an index, linear between the timesteps, and its derivative by the index, which on a timestep is that
    /// of the segment above.
    pub(super) fn alpha_bar_and_slope(&self, index: f64) -> (f64, f64) {
        let below = segment(&self.alphas_cumprod, index);
        let slope = self.alphas_cumprod[below + 1] - self.alphas_cumprod[below];
        (self.alphas_cumprod[below] + slope * (index - below as f64), slope)
    }

    /// The level with this lambda.
    fn at_lambda(&self, lambda: f64) -> Level {
        let log_alpha = -0.5 * (-2.0 * lambda).exp().ln_1p();
        let above = self.log_alphas.partition_point(|&value| value > log_alpha).clamp(1, self.len() - 1);
        let (high, low) = (self.log_alphas[above - 1], self.log_alphas[above]);
        let index = (above - 1) as f64 + (high - log_alpha) / (high - low);
        Level { lambda, ..Level::new(log_alpha, index, self.timestep_scale) }
    }

    /// The level at which sampling starts unless a time is given: the last timestep whose lambda is at least -5.1.
    pub(super) fn start(&self) -> Level {
        let last = (0..self.len()).rev().find(|&index| self.entry(index).lambda >= LAMBDA_START);
        // There is at least one interval.
        self.entry(last.unwrap_or(self.len() - 1).max(1))
    }

    /// Divides the way from one level to another into `parts`, and returns the `parts + 1` ends.
    pub(super) fn divide(&self, grid: TimeGrid, from: Level, to: Level, parts: usize) -> Vec<Level> {
        let time = |level: &Level| (level.index + 1.0) / self.len() as f64;
        let points = |coordinate: &dyn Fn(&Level) -> f64| -> Vec<f64> {
            let (first, last) = (coordinate(&from), coordinate(&to));
            (1..parts).map(|part| first + (last - first) * part as f64 / parts as f64).collect()
        };
        let inner: Vec<Level> = match grid {
            TimeGrid::Uniform => points(&time).into_iter().map(|t| self.at_time(t)).collect(),
            TimeGrid::Quadratic => {
                points(&|level| time(level).sqrt()).into_iter().map(|root| self.at_time(root * root)).collect()
            }
            TimeGrid::Logsnr => points(&|level| level.lambda).into_iter().map(|l| self.at_lambda(l)).collect(),
            TimeGrid::Karras => points(&|level| (-level.lambda / KARRAS_RHO).exp())
                .into_iter()
                .map(|root| self.at_lambda(-KARRAS_RHO * root.ln()))
                .collect(),
        };
        std::iter::once(from).chain(inner).chain([to]).collect()
    }
}

/// The entry below `index`, of a table of at least two, such that there is one above it.
fn segment(table: &[f64], index: f64) -> usize {
    (index.max(0.0) as usize).min(table.len() - 2)
}

fn interpolate(table: &[f64], index: f64) -> f64 {
    if table.len() == 1 {
        return table[0];
    }
    let below = segment(table, index);
    let share = index - below as f64;
    table[below] * (1.0 - share) + table[below + 1] * share
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::NoiseSchedule;

    fn levels(noise_schedule: NoiseSchedule) -> NoiseLevels {
        NoiseLevels::new(&DiffusionConfig { noise_schedule, ..DiffusionConfig::default() })
    }

    #[test]
    fn timesteps_are_met_exactly_and_lambda_is_inverted() {
        for schedule in [NoiseSchedule::Linear, NoiseSchedule::Cosine] {
            let levels = levels(schedule);
            for index in [0, 1, 500, 998, 999] {
                let entry = levels.entry(index);
                let same = levels.at_time((index + 1) as f64 / 1000.0);
                assert!((entry.lambda - same.lambda).abs() < 1e-9, "{entry:?} {same:?}");
                assert!((levels.at_lambda(entry.lambda).index - index as f64).abs() < 1e-6, "{entry:?}");
                assert!((entry.alpha.powi(2) + entry.sigma.powi(2) - 1.0).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn the_cosine_schedule_starts_before_its_last_timesteps() {
        assert_eq!(levels(NoiseSchedule::Linear).start().index, 999.0);
        assert_eq!(levels(NoiseSchedule::Cosine).start().index, 995.0);
    }

    #[test]
    fn every_grid_is_even_in_its_own_variable() {
        let levels = levels(NoiseSchedule::Linear);
        let (from, to) = (levels.at_time(1.0), levels.at_time(0.001));
        let coordinate_of = |grid: TimeGrid, level: &Level| match grid {
            TimeGrid::Uniform => level.index,
            TimeGrid::Quadratic => (level.index + 1.0).sqrt(),
            TimeGrid::Logsnr => level.lambda,
            TimeGrid::Karras => level.sigma_ve().powf(1.0 / 7.0),
        };
        for grid in [TimeGrid::Uniform, TimeGrid::Quadratic, TimeGrid::Logsnr, TimeGrid::Karras] {
            let coordinate = |level: &Level| coordinate_of(grid, level);
            let ends = levels.divide(grid, from, to, 5);
            assert_eq!((ends[0], ends[5], ends.len()), (from, to, 6));
            let width = (coordinate(&to) - coordinate(&from)) / 5.0;
            for pair in ends.windows(2) {
                let error = coordinate(&pair[1]) - coordinate(&pair[0]) - width;
                assert!(error.abs() < 1e-9 * width.abs().max(1.0), "{grid:?}: {error}");
            }
        }
    }
}
