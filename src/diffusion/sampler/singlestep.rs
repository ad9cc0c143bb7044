//! Singlestep DPM-Solver and DPM-Solver++ (Lu et al. 2022, 2022b): each step evaluates the network at nodes within it.

use std::sync::Arc;

use tch::Tensor;

use super::evaluation::{Estimate, Evaluator};
use super::levels::{Level, NoiseLevels, TimeGrid};
use super::options::{Settings, SolverError};
use super::solver::{Factory, GuidedModel, Solver, Step};
use super::update::{Interpolated, Interval, SolverType, Update, phi};

/// A step: an update to each node within it, and one to its end. Outputs are those of the first evaluation first.
struct Nodes {
    inner: Vec<(Level, Update)>,
    end: Update,
}

struct Plan {
    levels: Vec<Level>,
    evaluator: Evaluator,
    interpolated: Interpolated,
    steps: Vec<Nodes>,
}

/// A singlestep solver. Steps do not depend on each other.
struct Singlestep(Arc<Plan>);

/// Prepares singlestep DPM-Solver (`interpolated` is noise) or DPM-Solver++ (data).
pub(super) fn dpm_singlestep(settings: &Settings, interpolated: Interpolated) -> Result<Factory, SolverError> {
    let evaluator = Evaluator::new(settings);
    let all = NoiseLevels::new(settings.process);
    let orders = orders(settings.steps, settings.order);
    let mut levels = if settings.time_grid == TimeGrid::Logsnr {
        let (first, last) = settings.ends(&all);
        all.divide(settings.time_grid, first, last, orders.len())
    } else {
        // A step spans as many intervals as it has evaluations.
        let grid = settings.grid(&all);
        let ends = orders.iter().scan(0, |end, order| {
            *end += order;
            Some(grid[*end])
        });
        std::iter::once(grid[0]).chain(ends).collect()
    };
    let nodes = |(ends, &order): (&[Level], &usize)| {
        let inner = all.divide(settings.time_grid, ends[0], ends[1], order);
        nodes(&inner, interpolated, settings.solver_type())
    };
    let steps = levels.windows(2).zip(&orders).map(nodes).collect();
    if settings.denoise_to_zero() {
        levels.push(Level::CLEAN);
    }
    let plan = Arc::new(Plan { levels, evaluator, interpolated, steps });
    Ok(Box::new(move || Box::new(Singlestep(plan.clone()))))
}

/// The orders of the steps that use `evaluations` altogether.
fn orders(evaluations: usize, order: usize) -> Vec<usize> {
    let (whole, rest) = (evaluations / order, evaluations % order);
    let mut orders = vec![order; whole];
    match (order, rest) {
        // Published third-order samplers end with steps of lower orders.
        (3, 0) => {
            orders.pop();
            orders.extend([2, 1]);
        }
        (_, 0) => {}
        _ => orders.push(rest),
    }
    orders
}

/// The updates of a step whose nodes are at `levels`, the last of which is its end.
fn nodes(levels: &[Level], interpolated: Interpolated, solver_type: SolverType) -> Nodes {
    let to = |node: usize| Interval::ode(interpolated, &levels[0], &levels[node]);
    let order = levels.len() - 1;
    let whole = to(order);
    let (z, share) = (whole.z, |node: usize| to(node).h / whole.h);
    let end = match order {
        1 => vec![],
        2 => {
            let slope = match solver_type {
                SolverType::Midpoint => phi(1, z) / 2.0,
                SolverType::Taylor => phi(2, z),
            };
            vec![slope / share(1)]
        }
        _ => match solver_type {
            SolverType::Midpoint => vec![0.0, phi(2, z) / share(2)],
            SolverType::Taylor => {
                // The slope and the second derivative of the parabola at the first node.
                let (r_1, r_2) = (share(1), share(2));
                let (slope, bend) = (phi(2, z) / (r_2 - r_1), 2.0 * phi(3, z) / (r_2 - r_1));
                vec![(slope * r_2 - bend) / r_1, (bend - slope * r_1) / r_2]
            }
        },
    };
    let inner = (1..order).map(|node| {
        let interval = to(node);
        let slopes = if node == 2 { vec![phi(2, interval.z) * share(2) / share(1)] } else { vec![] };
        (levels[node], interval.update(&slopes))
    });
    Nodes { inner: inner.collect(), end: whole.update(&end) }
}

impl Solver for Singlestep {
    fn levels(&self) -> &[Level] {
        &self.0.levels
    }

    fn num_evaluations(&self) -> usize {
        (0..self.num_steps()).map(|index| self.order(index)).sum()
    }

    fn order(&self, index: usize) -> usize {
        self.0.steps.get(index).map_or(1, |nodes| nodes.inner.len() + 1)
    }

    fn uses_noise(&self, _: usize) -> bool {
        false
    }

    fn step(&mut self, index: usize, x: &Tensor, model: &GuidedModel, _: &mut dyn FnMut(usize) -> Tensor) -> Step {
        let Plan { levels, evaluator, interpolated, steps } = &*self.0;
        let mut estimate: Estimate = evaluator.evaluate(model, x, &levels[index]);
        let Some(nodes) = steps.get(index) else {
            return Step { sample: estimate.x_start.shallow_clone(), x_start: estimate.x_start, correction: None };
        };
        let mut outputs = vec![interpolated.of(&estimate)];
        for (level, update) in &nodes.inner {
            let (inner, _) = update.apply(x, &outputs);
            estimate = evaluator.evaluate(model, &inner, level);
            outputs.push(interpolated.of(&estimate));
        }
        let (sample, correction) = nodes.end.apply(x, &outputs);
        Step { sample, x_start: estimate.x_start, correction }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_use_all_evaluations() {
        assert_eq!(orders(1, 2), [1]);
        assert_eq!(orders(10, 2), [2, 2, 2, 2, 2]);
        assert_eq!(orders(5, 2), [2, 2, 1]);
        assert_eq!(orders(9, 3), [3, 3, 2, 1]);
        assert_eq!(orders(3, 3), [2, 1]);
        assert_eq!(orders(10, 3), [3, 3, 3, 1]);
        assert_eq!(orders(11, 3), [3, 3, 3, 2]);
    }
}
