//! Multistep solvers with one evaluation a step: DPM-Solver and DPM-Solver++ (Lu et al. 2022, 2022b), and the latter
//! for the reverse SDE.

use std::collections::VecDeque;
use std::sync::Arc;

use tch::Tensor;

use super::evaluation::Evaluator;
use super::levels::{Level, NoiseLevels};
use super::options::{Settings, SolverError};
use super::solver::{Factory, GuidedModel, Solver, Step};
use super::update::{Interpolated, Interval, SolverType, Update, phi};

/// Below this number of steps, the last ones have lower orders.
const FEW_STEPS: usize = 10;

/// The coefficients of a multistep solver.
pub(super) struct Plan {
    /// The ends of the steps, and x_0 itself if there is one more evaluation than updates.
    pub(super) levels: Vec<Level>,
    pub(super) evaluator: Evaluator,
    pub(super) interpolated: Interpolated,
    /// The updates, whose outputs are those of the newest evaluation first.
    pub(super) updates: Vec<Update>,
    /// The deviation of the noise that each step adds; empty for deterministic solvers.
    pub(super) noise: Vec<f64>,
}

impl Plan {
    /// A factory of solvers with these coefficients.
    pub(super) fn factory(self) -> Factory {
        let plan = Arc::new(self);
        Box::new(move || Box::new(Multistep { plan: plan.clone(), outputs: VecDeque::new() }))
    }
}

/// Prepares DPM-Solver (`interpolated` is noise) or DPM-Solver++ (data).
pub(super) fn dpm(settings: &Settings, interpolated: Interpolated) -> Result<Factory, SolverError> {
    let levels = settings.grid(&NoiseLevels::new(settings.process));
    let mut updates = Vec::new();
    for (index, ends) in levels.windows(2).enumerate() {
        let order = order_of_step(settings, index);
        let interval = Interval::ode(interpolated, &ends[0], &ends[1]);
        let past = past_lambdas(&levels, index, order);
        updates.push(interval.update(&slopes(&interval, &past, settings.solver_type(), Third::AsPublished)));
    }
    plan(settings, levels, interpolated, updates, Vec::new())
}

/// Prepares DPM-Solver++ for the reverse SDE.
pub(super) fn dpmpp_sde(settings: &Settings) -> Result<Factory, SolverError> {
    let levels = settings.grid(&NoiseLevels::new(settings.process));
    let (mut updates, mut noise) = (Vec::new(), Vec::new());
    for (index, ends) in levels.windows(2).enumerate() {
        let order = order_of_step(settings, index);
        let interval = Interval::sde(&ends[0], &ends[1]);
        let past = past_lambdas(&levels, index, order);
        updates.push(interval.update(&slopes(&interval, &past, settings.solver_type(), Third::Exact)));
        noise.push(ends[1].sigma * (-(-2.0 * interval.h).exp_m1()).sqrt());
    }
    plan(settings, levels, Interpolated::Data, updates, noise)
}

fn plan(
    settings: &Settings,
    mut levels: Vec<Level>,
    interpolated: Interpolated,
    updates: Vec<Update>,
    noise: Vec<f64>,
) -> Result<Factory, SolverError> {
    let evaluator = Evaluator::new(settings);
    if settings.denoise_to_zero() {
        levels.push(Level::CLEAN);
    }
    Ok(Plan { levels, evaluator, interpolated, updates, noise }.factory())
}

/// The order of a step: as many evaluations as there are, up to the order of the solver, and fewer again at the end.
fn order_of_step(settings: &Settings, index: usize) -> usize {
    let order = settings.order.min(index + 1);
    if settings.lower_order_final() && settings.steps < FEW_STEPS { order.min(settings.steps - index) } else { order }
}

/// The lambdas of the newest `order` evaluations, the newest first.
fn past_lambdas(levels: &[Level], index: usize, order: usize) -> Vec<f64> {
    levels[..=index].iter().rev().take(order).map(|level| level.lambda).collect()
}

/// The term of third order.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Third {
    /// Half of the exact one, as the published DPM-Solver has it. The solver is then of second order, with a fifth of
    /// the error of the solver that takes two evaluations.
    AsPublished,
    /// The integral of the parabola.
    Exact,
}

/// The factors of m_1 - m_0 and m_2 - m_0 in G, where m_k was evaluated at `past[k]`.
fn slopes(interval: &Interval, past: &[f64], solver_type: SolverType, third: Third) -> Vec<f64> {
    let (h, z) = (interval.h, interval.z);
    match *past {
        [now, before] => {
            let r = (now - before) / h;
            let slope = match solver_type {
                SolverType::Midpoint => phi(1, z) / 2.0,
                SolverType::Taylor => phi(2, z),
            };
            vec![-slope / r]
        }
        [now, before, first] => {
            let (r_0, r_1) = ((now - before) / h, (before - first) / h);
            // The parabola's slope at m_0 and its second divided difference, in the two divided differences.
            let share = if third == Third::Exact { 2.0 } else { 1.0 };
            let second = share * phi(3, z) / (r_0 + r_1);
            let bend = phi(2, z) * r_0 / (r_0 + r_1) + second;
            let (newer, older) = ((phi(2, z) + bend) / r_0, -bend / r_1);
            vec![-newer + older, -older]
        }
        _ => Vec::new(),
    }
}

/// A multistep solver and the outputs of its last evaluations, the newest first.
struct Multistep {
    plan: Arc<Plan>,
    outputs: VecDeque<Tensor>,
}

impl Solver for Multistep {
    fn levels(&self) -> &[Level] {
        &self.plan.levels
    }

    fn num_evaluations(&self) -> usize {
        self.num_steps()
    }

    fn order(&self, index: usize) -> usize {
        self.plan.updates.get(index).map_or(1, Update::order)
    }

    fn uses_noise(&self, index: usize) -> bool {
        self.plan.noise.get(index).is_some_and(|&deviation| deviation > 0.0)
    }

    fn step(&mut self, index: usize, x: &Tensor, model: &GuidedModel, noise: &mut dyn FnMut(usize) -> Tensor) -> Step {
        let plan = &*self.plan;
        let estimate = plan.evaluator.evaluate(model, x, &plan.levels[index]);
        let Some(update) = plan.updates.get(index) else {
            return Step { sample: estimate.x_start.shallow_clone(), x_start: estimate.x_start, correction: None };
        };
        self.outputs.push_front(plan.interpolated.of(&estimate));
        let (mut sample, correction) = update.apply(x, &self.outputs);
        // The next step is the last that can take an evaluation of now and as many before it.
        let kept = plan.updates.get(index + 1).map_or(0, |next| next.order() - 1);
        self.outputs.truncate(kept);
        if self.uses_noise(index) {
            sample += noise(index) * self.plan.noise[index];
        }
        Step { sample, x_start: estimate.x_start, correction }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(lambda: f64) -> Level {
        Level { lambda, ..Level::new(-0.5 * (-2.0 * lambda).exp().ln_1p(), 0.0, 1.0) }
    }

    /// G for a polynomial in lambda must be its integral.
    #[test]
    fn slopes_integrate_polynomials_exactly() {
        let past = [0.3, -0.1, -0.6];
        let (from, to) = (level(0.3), level(0.8));
        let intervals = [
            Interval::ode(Interpolated::Data, &from, &to),
            Interval::ode(Interpolated::Noise, &from, &to),
            Interval::sde(&from, &to),
        ];
        for interval in intervals {
            let polynomial = |lambda: f64| 1.0 + 2.0 * (lambda - 0.3) - 3.0 * (lambda - 0.3).powi(2);
            let exact = phi(1, interval.z) + 2.0 * interval.h * phi(2, interval.z)
                - 3.0 * interval.h.powi(2) * 2.0 * phi(3, interval.z);
            let m: Vec<f64> = past.iter().map(|&lambda| polynomial(lambda)).collect();
            let weights = slopes(&interval, &past, SolverType::Midpoint, Third::Exact);
            let g = phi(1, interval.z) * m[0] + weights[0] * (m[1] - m[0]) + weights[1] * (m[2] - m[0]);
            assert!((g - exact).abs() < 1e-12, "{interval:?}: {g} is not {exact}");

            let line = |lambda: f64| 1.0 + 2.0 * (lambda - 0.3);
            let exact = phi(1, interval.z) + 2.0 * interval.h * phi(2, interval.z);
            let weights = slopes(&interval, &past[..2], SolverType::Taylor, Third::Exact);
            let g = phi(1, interval.z) + weights[0] * (line(past[1]) - 1.0);
            assert!((g - exact).abs() < 1e-12, "{interval:?}: {g} is not {exact}");
        }
    }

    #[test]
    fn the_noise_of_a_step_of_the_sde_keeps_the_level() {
        let (from, to) = (level(-2.0), level(-1.0));
        let interval = Interval::sde(&from, &to);
        let update = interval.update(&[]);
        let deviation = to.sigma * (-(-2.0 * interval.h).exp_m1()).sqrt();
        // A state alpha x_0 + sigma ε with the true x_0 keeps its signal and its variance.
        assert!((update.state * from.alpha + update.first - to.alpha).abs() < 1e-12);
        assert!(((update.state * from.sigma).hypot(deviation) - to.sigma).abs() < 1e-12);
    }
}
