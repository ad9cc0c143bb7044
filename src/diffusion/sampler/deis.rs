//! Solvers with polynomials of ε in the timestep: DEIS (Zhang & Chen 2022) and iPNDM (Liu et al. 2022, without its
//! Runge-Kutta start).

use super::evaluation::Evaluator;
use super::levels::{Level, NoiseLevels, TimeGrid};
use super::multistep::Plan;
use super::options::{Settings, SolverError};
use super::solver::Factory;
use super::update::{Interpolated, Update};

/// The number of points of the quadrature. It is the published one: the coefficients are then the same.
const QUADRATURE_POINTS: usize = 100_000;

/// The factors of Adams and Bashforth, for one to four outputs, the newest first.
const ADAMS_BASHFORTH: [&[f64]; 4] = [
    &[1.0],
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

/// Prepares DEIS with tabulated coefficients. The order is the number of earlier outputs in a step, as published; the
/// order of convergence is one more.
pub(super) fn deis_tab(settings: &Settings) -> Result<Factory, SolverError> {
    let all = NoiseLevels::new(settings.process);
    let levels = grid(settings, &all);
    let updates = (0..settings.steps).map(|step| {
        let outputs = settings.order.min(step) + 1;
        let nodes: Vec<f64> = (0..outputs).map(|back| levels[step - back].index).collect();
        update(levels[step + 1].alpha / levels[step].alpha, &integrals(&all, &nodes, &levels[step + 1]))
    });
    let updates = updates.collect();
    finish(settings, levels, updates)
}

/// Prepares iPNDM: the step of DDIM with ε extrapolated by Adams and Bashforth.
pub(super) fn ipndm(settings: &Settings) -> Result<Factory, SolverError> {
    let levels = grid(settings, &NoiseLevels::new(settings.process));
    let updates = levels.windows(2).enumerate().map(|(step, ends)| {
        let state = ends[1].alpha / ends[0].alpha;
        let ddim = ends[1].sigma - state * ends[0].sigma;
        let earlier = settings.order.min(step);
        let factors: Vec<f64> = ADAMS_BASHFORTH[earlier].iter().map(|factor| ddim * factor).collect();
        update(state, &factors)
    });
    let updates = updates.collect();
    finish(settings, levels, updates)
}

fn finish(settings: &Settings, levels: Vec<Level>, updates: Vec<Update>) -> Result<Factory, SolverError> {
    let evaluator = Evaluator::new(settings);
    Ok(Plan { levels, evaluator, interpolated: Interpolated::Noise, updates, noise: Vec::new() }.factory())
}

/// The levels from the last timestep to the first, evenly in the index or its square root.
fn grid(settings: &Settings, all: &NoiseLevels) -> Vec<Level> {
    let power = if settings.time_grid == TimeGrid::Quadratic { 2.0 } else { 1.0 };
    let last = (all.len() - 1) as f64;
    let share = |step: usize| (settings.steps - step) as f64 / settings.steps as f64;
    (0..=settings.steps).map(|step| all.at_index_linear(last * share(step).powf(power))).collect()
}

/// The update with these factors of the outputs. All outputs alike make the step of first order.
fn update(state: f64, factors: &[f64]) -> Update {
    let first = factors.iter().sum();
    let mut correction = Vec::new();
    if factors.len() > 1 {
        correction.extend_from_slice(factors);
        correction[0] -= first;
    }
    Update { state, first, correction }
}

/// The factors of the outputs at the indices `nodes`, the newest first: the integrals of the Lagrange polynomials from
/// `nodes[0]` to `to`, weighted by alpha(to) / alpha times dε's share in dx.
fn integrals(all: &NoiseLevels, nodes: &[f64], to: &Level) -> Vec<f64> {
    let width = (to.index - nodes[0]) / QUADRATURE_POINTS as f64;
    let mut sums = vec![0.0; nodes.len()];
    for point in 0..QUADRATURE_POINTS {
        let index = nodes[0] + width * point as f64;
        let (alpha_bar, slope) = all.alpha_bar_and_slope(index);
        let weight = -0.5 * slope / (alpha_bar * (alpha_bar * (1.0 - alpha_bar)).sqrt());
        for (sum, own) in sums.iter_mut().zip(nodes) {
            let others = nodes.iter().filter(|other| *other != own);
            *sum += weight * others.map(|other| (index - other) / (own - other)).product::<f64>();
        }
    }
    sums.into_iter().map(|sum| sum * width * to.alpha).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::DiffusionConfig;

    #[test]
    fn the_integrals_of_all_polynomials_sum_to_the_step_of_ddim() {
        let all = NoiseLevels::new(&DiffusionConfig::default());
        let levels: Vec<Level> = [600.0, 500.5, 400.0, 310.0].map(|index| all.at_index_linear(index)).to_vec();
        let ddim = levels[3].sigma - levels[3].alpha / levels[2].alpha * levels[2].sigma;
        for nodes in [vec![400.0], vec![400.0, 500.5], vec![400.0, 500.5, 600.0]] {
            let sum: f64 = integrals(&all, &nodes, &levels[3]).iter().sum();
            assert!((sum / ddim - 1.0).abs() < 1e-5, "{nodes:?}: {sum} is not {ddim}");
        }
    }

    #[test]
    fn factors_of_adams_and_bashforth_sum_to_one() {
        for factors in ADAMS_BASHFORTH {
            assert!((factors.iter().sum::<f64>() - 1.0).abs() < 1e-15, "{factors:?}");
        }
    }
}
