//! `admiral bench solvers`: the error of each sampler, and how fast it falls with the number of steps, on data whose
//! score is known.
//!
//! Every pixel is a sample of the same mixture of Gaussians, so the exact ε is a formula, and the exact image of a
//! noise is the solution of an ordinary differential equation in one variable. Nothing here depends on a network, and
//! everything is in float64.

use clap::Args;
use serde::Serialize;
use tch::{Kind, Tensor};

use crate::diffusion::{
    DiffusionConfig, GuidedModel, Level, NoiseLevels, SOLVERS, Sampler, SolverEntry, SolverError, SolverOption,
    SolverOptions, SolverPlan, TimeGrid, Trajectory, Variance,
};
use crate::train::TrainError;

use super::output::print_as;

/// The Gaussians of the data: weight, mean and deviation.
const MIXTURE: [(f64, f64, f64); 3] = [(0.3, -0.6, 0.2), (0.5, 0.2, 0.15), (0.2, 0.7, 0.25)];

/// The pixels whose error is measured.
const PIXELS: usize = 64;

/// The steps of the reference solution.
const REFERENCE_STEPS: usize = 2000;

/// The options of `admiral bench solvers`.
#[derive(Debug, Clone, Args)]
pub struct SolverBenchOptions {
    /// Steps of the errors that are printed; for singlestep samplers, evaluations
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=500))]
    steps: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is known about a sampler.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Measured {
    sampler: &'static str,
    /// The value of `order`.
    order: usize,
    /// The order of convergence in theory.
    theory: usize,
    /// The order of convergence that errors of two numbers of steps show. `None` for random samplers, whose paths do not
    /// converge to that of a differential equation.
    measured: Option<f64>,
    evaluations: usize,
    /// For each grid of noise levels that the sampler has, its own first, the error relative to the images, both as root
    /// mean squares. Empty for random samplers.
    errors: Vec<GridError>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct GridError {
    time_grid: TimeGrid,
    error: f64,
}

/// Measures every sampler in every order that it has, and prints a table.
///
/// # Errors
/// When a solver cannot be prepared.
pub fn run(options: &SolverBenchOptions) -> Result<(), TrainError> {
    let steps = usize::from(options.steps);
    let mut all = Vec::new();
    for entry in SOLVERS {
        for (&order, &theory) in entry.orders.iter().zip(entry.convergence) {
            let measured = measure(entry, order, theory, steps)
                .map_err(|error| TrainError::Bug(format!("{}: {}: {error}", entry.name, error.field())))?;
            all.push(measured);
        }
    }
    print_as(&all, options.json, |all| print(all, steps))
}

fn measure(entry: &'static SolverEntry, order: usize, theory: usize, steps: usize) -> Result<Measured, SolverError> {
    let sampler: Sampler = entry.name.parse()?;
    let evaluations = Experiment::new(sampler, order, steps, None)?.plan.start().num_evaluations();
    let (mut measured, mut errors) = (None, Vec::new());
    if !entry.is_noisy {
        measured = Some(measured_order(sampler, order)?);
        for &time_grid in entry.time_grids {
            let error = Experiment::new(sampler, order, steps, Some(time_grid))?.error();
            errors.push(GridError { time_grid, error });
        }
    }
    Ok(Measured { sampler: entry.name, order, theory, measured, evaluations, errors })
}

/// The numbers of steps between which the order is measured.
///
/// Steps even in lambda show their order late, where those of lower order at the start no longer count. The others are
/// bound to the timesteps of the process, whose spacing shows in more steps. The numbers leave third-order singlestep
/// solvers a last step of second order, since those that end with one of first order show that.
fn order_steps(entry: &SolverEntry) -> [usize; 2] {
    if entry.time_grids.contains(&TimeGrid::Logsnr) { [161, 320] } else { [40, 80] }
}

/// The order of convergence that the errors of two numbers of steps show.
fn measured_order(sampler: Sampler, order: usize) -> Result<f64, SolverError> {
    let [few, many] = order_steps(sampler.entry());
    let error = |steps| Experiment::new(sampler, order, steps, None).map(|experiment| experiment.error());
    Ok((error(few)? / error(many)?).ln() / (many as f64 / few as f64).ln())
}

/// A solver with a number of steps.
struct Experiment {
    plan: SolverPlan,
    levels: NoiseLevels,
}

impl Experiment {
    /// Prepares a solver with a grid, or for a measurement of its order: on its own grid, and with orders that do not
    /// fall at the end.
    fn new(sampler: Sampler, order: usize, steps: usize, time_grid: Option<TimeGrid>) -> Result<Self, SolverError> {
        let process = DiffusionConfig { variance: Variance::FixedSmall, ..DiffusionConfig::default() };
        let takes = |option: SolverOption| sampler.takes(option);
        let keeps_order = time_grid.is_none() && takes(SolverOption::LowerOrderFinal);
        let options = SolverOptions {
            timestep_respacing: steps.to_string(),
            clip_denoised: false,
            steps: takes(SolverOption::Steps).then_some(steps),
            order: takes(SolverOption::Order).then_some(order),
            time_grid: time_grid.filter(|_| takes(SolverOption::TimeGrid)),
            lower_order_final: keeps_order.then_some(false),
            ..SolverOptions::default()
        };
        Ok(Self { plan: SolverPlan::new(sampler, &options, &process)?, levels: NoiseLevels::new(&process) })
    }

    /// Returns the error at the last level that still has noise, relative to the exact state there.
    fn error(&self) -> f64 {
        let solver = self.plan.start();
        let levels = solver.levels().to_vec();
        let last = levels.iter().rposition(|level| level.sigma > 0.0).unwrap_or(0);
        let noise: Vec<f64> = (0..PIXELS).map(|pixel| 4.0 * ((pixel as f64 + 0.5) / PIXELS as f64 - 0.5)).collect();
        let x_last = Tensor::from_slice(&noise).view([1, 1, 8, (PIXELS / 8) as i64]);
        let model = |x: &Tensor, timesteps: &Tensor| {
            let timestep = timesteps.double_value(&[0]);
            // A solver's own levels come first: they may lie between those of the timesteps in another way.
            let own = levels.iter().find(|level| level.model_timestep == timestep);
            epsilon(x, &own.copied().unwrap_or_else(|| self.levels.at_index(timestep)))
        };
        let mut no_noise = |_| x_last.zeros_like();
        let mut trajectory = Trajectory::new(solver, GuidedModel::unguided(&model), &x_last, &mut no_noise);
        let state = trajectory.nth(last - 1).map(|step| step.sample.flatten(0, -1));
        let actual: Vec<f64> = state.and_then(|state| state.try_into().ok()).unwrap_or_default();
        // Heun's first state is noise of the first level, others' is noise of deviation 1.
        let scale = if self.plan.sampler().entry().name == "heun" { levels[0].sigma } else { 1.0 };
        let exact = noise.iter().map(|x| exact(x * scale, &levels[0], &levels[last]));
        let (mut squared_error, mut squared) = (0.0, 0.0);
        for (actual, exact) in actual.iter().zip(exact) {
            squared_error += (actual - exact).powi(2);
            squared += exact.powi(2);
        }
        (squared_error / squared).sqrt()
    }
}

/// The exact ε of the mixture at the states `x` of a level.
fn epsilon(x: &Tensor, level: &Level) -> Tensor {
    let values: Vec<f64> = x.to_kind(Kind::Double).flatten(0, -1).try_into().unwrap_or_default();
    let epsilons: Vec<f64> = values.iter().map(|&x| epsilon_of(x, level.alpha, level.sigma)).collect();
    Tensor::from_slice(&epsilons).view(x.size().as_slice())
}

fn epsilon_of(x: f64, alpha: f64, sigma: f64) -> f64 {
    let exponents = MIXTURE.map(|(weight, mean, deviation)| {
        let variance = (alpha * deviation).powi(2) + sigma * sigma;
        weight.ln() - 0.5 * variance.ln() - (x - alpha * mean).powi(2) / (2.0 * variance)
    });
    let largest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (mut sum, mut total) = (0.0, 0.0);
    for (exponent, (_, mean, deviation)) in exponents.iter().zip(MIXTURE) {
        let share = (exponent - largest).exp();
        let variance = (alpha * deviation).powi(2) + sigma * sigma;
        total += share;
        sum += share * sigma * (x - alpha * mean) / variance;
    }
    sum / total
}

/// The state at level `to` of the path that is at `x` at level `from`: the fourth-order Runge-Kutta method in
/// ln(sigma / alpha), in which x / alpha has the derivative ε sigma / alpha.
fn exact(x: f64, from: &Level, to: &Level) -> f64 {
    let derivative = |y: f64, log_sigma: f64| {
        let sigma_ve = log_sigma.exp();
        let alpha = 1.0 / sigma_ve.hypot(1.0);
        epsilon_of(y * alpha, alpha, sigma_ve * alpha) * sigma_ve
    };
    let h = (from.lambda - to.lambda) / REFERENCE_STEPS as f64;
    let end = (0..REFERENCE_STEPS).fold(x / from.alpha, |y, step| {
        let s = -from.lambda + h * step as f64;
        let k_1 = derivative(y, s);
        let k_2 = derivative(y + 0.5 * h * k_1, s + 0.5 * h);
        let k_3 = derivative(y + 0.5 * h * k_2, s + 0.5 * h);
        let k_4 = derivative(y + h * k_3, s + h);
        y + h / 6.0 * (k_1 + 2.0 * k_2 + 2.0 * k_3 + k_4)
    });
    end * to.alpha
}

fn print(all: &[Measured], steps: usize) {
    println!("errors relative to exact solutions on a mixture of Gaussians, and the order with which they fall");
    println!("the errors are those of {steps} steps, the sampler's own grid first");
    println!("{:<12} {:>5} {:>6} {:>8} {:>11}  errors", "sampler", "order", "theory", "measured", "evaluations");
    for Measured { sampler, order, theory, measured, evaluations, errors } in all {
        let measured = measured.map_or("random".into(), |order| format!("{order:.2}"));
        let errors: Vec<String> =
            errors.iter().map(|GridError { time_grid, error }| format!("{} {error:.4}", time_grid.name())).collect();
        println!("{sampler:<12} {order:>5} {theory:>6} {measured:>8} {evaluations:>11}  {}", errors.join(", "));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_deterministic_sampler_converges_with_its_order() {
        let mut wrong = Vec::new();
        for entry in SOLVERS.iter().filter(|entry| !entry.is_noisy) {
            for (&order, &theory) in entry.orders.iter().zip(entry.convergence) {
                let measured = measured_order(entry.name.parse().unwrap(), order).unwrap();
                // DEIS shows the lower orders of its first steps and its quadrature before its own order.
                let tolerance = if entry.name == "deis_tab" { 0.9 } else { 0.2 };
                if (measured - theory as f64).abs() > tolerance {
                    wrong.push(format!("{} of order {order}: {theory} in theory, {measured:.2} measured", entry.name));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn the_reference_is_exact_where_the_solution_is_known() {
        // At its end, the reference does not depend on the number of steps; a Gaussian's own path is a scaling.
        let level = |lambda: f64| {
            let sigma_ve = (-lambda).exp();
            let alpha = 1.0 / sigma_ve.hypot(1.0);
            Level { index: 0.0, model_timestep: 0.0, alpha, sigma: sigma_ve * alpha, lambda }
        };
        let (from, middle, to) = (level(-4.0), level(0.5), level(4.0));
        for x in [-1.5, 0.1, 1.0] {
            let apart = exact(exact(x, &from, &middle), &middle, &to);
            assert!((apart - exact(x, &from, &to)).abs() < 1e-9);
        }
        // ε has mean 0 over the states of a level.
        let (alpha, sigma) = (0.6, 0.8);
        let density = |x: f64| -> f64 {
            let part = |(weight, mean, deviation): (f64, f64, f64)| {
                let variance = (alpha * deviation).powi(2) + sigma * sigma;
                weight * (-(x - alpha * mean).powi(2) / (2.0 * variance)).exp() / variance.sqrt()
            };
            MIXTURE.into_iter().map(part).sum()
        };
        let states = (-4000..=4000).map(|i| f64::from(i) * 2e-3);
        let total: f64 = states.map(|x| density(x) * epsilon_of(x, alpha, sigma)).sum();
        assert!(total.abs() < 1e-6, "{total}");
    }
}
