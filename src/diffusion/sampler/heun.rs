//! The Heun solver of EDM (Karras et al. 2022, algorithms 1 and 2) on the noise levels of the process's timesteps.
//!
//! It works in the variance-exploding state x / alpha, whose noise level is sigma / alpha.

use std::sync::Arc;

use tch::Tensor;

use super::evaluation::Evaluator;
use super::levels::{Level, NoiseLevels, TimeGrid};
use super::options::{NoiseRange, Settings, SolverError, SolverOption};
use super::solver::{Factory, GuidedModel, Solver, Step};

/// The noise levels of EDM.
const NOISE_RANGE: NoiseRange = NoiseRange { sigma_min: 0.002, sigma_max: 80.0, rho: super::levels::KARRAS_RHO };

/// The largest relative rise of the noise level by churn.
const MAX_CHURN: f64 = std::f64::consts::SQRT_2 - 1.0;

struct Plan {
    levels: Vec<Level>,
    /// The level from which each step starts, after churn has raised it.
    raised: Vec<Level>,
    /// The deviation of the noise of churn in each step, times its configured factor.
    noise: Vec<f64>,
    evaluator: Evaluator,
}

/// The Heun solver. Steps do not depend on each other.
struct Heun(Arc<Plan>);

/// Prepares the Heun solver.
pub(super) fn heun(settings: &Settings) -> Result<Factory, SolverError> {
    let evaluator = Evaluator::new(settings);
    let all = NoiseLevels::new(settings.process);
    let table: Vec<Level> = (0..all.len()).map(|index| all.entry(index)).collect();
    let range = settings.options.noise_range.unwrap_or(NOISE_RANGE);
    let mut levels = match settings.time_grid {
        TimeGrid::Uniform => even_entries(&table, range, settings.steps)?,
        _ => karras(&table, range, settings.steps),
    };
    levels.push(Level::CLEAN);
    let churn = settings.options.churn.unwrap_or_default();
    let starts = levels[..settings.steps].iter().map(|level| {
        let sigma = level.sigma_ve();
        let is_churned = churn.amount > 0.0 && (churn.sigma_min..=churn.sigma_max).contains(&sigma);
        if !is_churned {
            return (*level, 0.0);
        }
        let rise = (churn.amount / settings.steps as f64).min(MAX_CHURN);
        let raised = nearest(&table, sigma * (1.0 + rise));
        let variance = raised.sigma_ve().powi(2) - sigma * sigma;
        (raised, churn.noise * variance.max(0.0).sqrt())
    });
    let (raised, noise) = starts.unzip();
    let plan = Arc::new(Plan { levels, raised, noise, evaluator });
    Ok(Box::new(move || Box::new(Heun(plan.clone()))))
}

/// Timesteps evenly over those within the range, the noisiest first (Karras et al. 2022, table 1, column iDDPM).
fn even_entries(table: &[Level], range: NoiseRange, steps: usize) -> Result<Vec<Level>, SolverError> {
    let inside = |level: &&Level| (range.sigma_min..=range.sigma_max).contains(&level.sigma_ve());
    let within: Vec<Level> = table.iter().rev().filter(inside).copied().collect();
    if within.len() < steps {
        let rule = format!("only {} timesteps have a noise level within the range of this sampler", within.len());
        return Err(SolverError::Value { option: SolverOption::Steps, value: steps.to_string(), rule });
    }
    let stride = (within.len() - 1) as f64 / (steps.max(2) - 1) as f64;
    Ok((0..steps).map(|step| within[(stride * step as f64).round_ties_even() as usize]).collect())
}

/// The timesteps nearest to a Karras grid over the part of the range that the process has.
fn karras(table: &[Level], range: NoiseRange, steps: usize) -> Vec<Level> {
    let root = |sigma: f64| sigma.powf(1.0 / range.rho);
    let (lowest, highest) = (table[0].sigma_ve(), table[table.len() - 1].sigma_ve());
    let (first, last) = (root(range.sigma_max.min(highest)), root(range.sigma_min.max(lowest)));
    let width = (last - first) / (steps.max(2) - 1) as f64;
    (0..steps).map(|step| nearest(table, (first + width * step as f64).powf(range.rho))).collect()
}

/// The timestep whose noise level is nearest to `sigma`.
fn nearest(table: &[Level], sigma: f64) -> Level {
    let above = table.partition_point(|level| level.sigma_ve() < sigma).clamp(1, table.len() - 1);
    let (low, high) = (table[above - 1], table[above]);
    if sigma - low.sigma_ve() <= high.sigma_ve() - sigma { low } else { high }
}

impl Solver for Heun {
    fn levels(&self) -> &[Level] {
        &self.0.levels
    }

    fn num_evaluations(&self) -> usize {
        2 * self.num_steps() - 1
    }

    fn order(&self, index: usize) -> usize {
        if index + 1 < self.num_steps() { 2 } else { 1 }
    }

    fn uses_noise(&self, index: usize) -> bool {
        self.0.noise[index] > 0.0
    }

    fn step(&mut self, index: usize, x: &Tensor, model: &GuidedModel, noise: &mut dyn FnMut(usize) -> Tensor) -> Step {
        let plan = &*self.0;
        let (level, from, to) = (plan.levels[index], plan.raised[index], plan.levels[index + 1]);
        // Noise of deviation 1 is taken as noise of the first level without a signal.
        let mut state = if index == 0 { x * level.sigma_ve() } else { x / level.alpha };
        if self.uses_noise(index) {
            state += noise(index) * plan.noise[index];
        }
        let width = to.sigma_ve() - from.sigma_ve();
        // The derivative of this state by its noise level is ε.
        let first = plan.evaluator.evaluate(model, &(&state * from.alpha), &from);
        state += &first.epsilon * width;
        if to.sigma == 0.0 {
            return Step { sample: state, x_start: first.x_start, correction: None };
        }
        let second = plan.evaluator.evaluate(model, &(&state * to.alpha), &to);
        let correction = (second.epsilon - first.epsilon) * (0.5 * width);
        state += &correction;
        Step { sample: state * to.alpha, x_start: second.x_start, correction: Some(correction * to.alpha) }
    }
}
