//! UniPC (Zhao et al. 2023): a multistep predictor, and a corrector that takes the evaluation at the prediction. That
//! evaluation also serves the next step, so the corrector costs none.

use std::collections::VecDeque;
use std::sync::Arc;

use tch::Tensor;

use super::evaluation::{Estimate, Evaluator};
use super::levels::{Level, NoiseLevels};
use super::options::{Settings, SolverError};
use super::solver::{Factory, GuidedModel, Solver, Step};
use super::update::{Interpolated, Interval, Update, phi};

/// The function B(h) of UniPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// B = z.
    Bh1,
    /// B = exp(z) - 1.
    Bh2,
}

/// A step. The predictor's outputs are those of the newest evaluation first; the corrector's also end with that at the
/// prediction. There is no corrector in the last step.
struct Pair {
    predictor: Update,
    corrector: Option<Update>,
}

struct Plan {
    levels: Vec<Level>,
    evaluator: Evaluator,
    interpolated: Interpolated,
    steps: Vec<Pair>,
}

/// Prepares UniPC.
pub(super) fn unipc(settings: &Settings, variant: Variant) -> Result<Factory, SolverError> {
    let evaluator = Evaluator::new(settings);
    let interpolated = settings.options.interpolated.unwrap_or(Interpolated::Data);
    let mut levels = settings.grid(&NoiseLevels::new(settings.process));
    let steps = (0..settings.steps).map(|index| {
        let mut order = settings.order.min(index + 1);
        if settings.lower_order_final() {
            order = order.min(settings.steps - index);
        }
        let interval = Interval::ode(interpolated, &levels[index], &levels[index + 1]);
        let mut nodes: Vec<f64> =
            (1..order).map(|back| (levels[index - back].lambda - levels[index].lambda) / interval.h).collect();
        let predictor = interval.update(&slopes(interval.z, &nodes, variant));
        nodes.push(1.0);
        let has_corrector = index + 1 < settings.steps;
        let corrector = has_corrector.then(|| interval.update(&slopes(interval.z, &nodes, variant)));
        Pair { predictor, corrector }
    });
    let steps = steps.collect();
    if settings.denoise_to_zero() {
        levels.push(Level::CLEAN);
    }
    let plan = Arc::new(Plan { levels, evaluator, interpolated, steps });
    Ok(Box::new(move || Box::new(UniPc { plan: plan.clone(), outputs: VecDeque::new(), newest: None })))
}

/// The factors in G of m_k - m, where m_k was evaluated at `nodes[k]` = (lambda_k - lambda) / h.
fn slopes(z: f64, nodes: &[f64], variant: Variant) -> Vec<f64> {
    let b = match variant {
        Variant::Bh1 => z,
        Variant::Bh2 => z.exp_m1(),
    };
    let weights = if nodes.len() == 1 {
        // As published: within the order of the step, any function that is 1/2 at z = 0 serves.
        vec![0.5]
    } else {
        let mut factorial = 1.0;
        let rows = (1..=nodes.len()).map(|j| {
            factorial *= j as f64;
            let powers = nodes.iter().map(|node| node.powi(j as i32 - 1)).collect();
            (powers, factorial * z * phi(j as u32 + 1, z) / b)
        });
        solve(rows.collect())
    };
    weights.iter().zip(nodes).map(|(weight, node)| b / z * weight / node).collect()
}

/// Solves a system of linear equations by elimination. The nodes differ, so the system has a solution.
fn solve(mut rows: Vec<(Vec<f64>, f64)>) -> Vec<f64> {
    let n = rows.len();
    for column in 0..n {
        let largest = (column..n).max_by(|&a, &b| rows[a].0[column].abs().total_cmp(&rows[b].0[column].abs()));
        rows.swap(column, largest.unwrap_or(column));
        let (pivot, value) = rows[column].clone();
        for (index, (row, right)) in rows.iter_mut().enumerate() {
            if index != column {
                let factor = row[column] / pivot[column];
                row.iter_mut().zip(&pivot).for_each(|(entry, pivot)| *entry -= factor * pivot);
                *right -= factor * value;
            }
        }
    }
    rows.iter().enumerate().map(|(index, (row, right))| right / row[index]).collect()
}

/// UniPC and the outputs of its last evaluations, the newest first.
struct UniPc {
    plan: Arc<Plan>,
    outputs: VecDeque<Tensor>,
    /// The x_0 predicted by the newest evaluation.
    newest: Option<Tensor>,
}

impl UniPc {
    fn evaluate(&self, model: &GuidedModel, x: &Tensor, index: usize) -> Estimate {
        self.plan.evaluator.evaluate(model, x, &self.plan.levels[index])
    }
}

impl Solver for UniPc {
    fn levels(&self) -> &[Level] {
        &self.plan.levels
    }

    fn num_evaluations(&self) -> usize {
        // The last prediction is not evaluated, but the start is.
        self.num_steps()
    }

    fn order(&self, index: usize) -> usize {
        self.plan.steps.get(index).map_or(1, |pair| pair.predictor.order())
    }

    fn uses_noise(&self, _: usize) -> bool {
        false
    }

    fn step(&mut self, index: usize, x: &Tensor, model: &GuidedModel, _: &mut dyn FnMut(usize) -> Tensor) -> Step {
        let plan = self.plan.clone();
        let Some(pair) = plan.steps.get(index) else {
            let x_start = self.evaluate(model, x, index).x_start;
            return Step { sample: x_start.shallow_clone(), x_start, correction: None };
        };
        let newest = self.newest.take().unwrap_or_else(|| {
            let start = self.evaluate(model, x, index);
            self.outputs.push_front(plan.interpolated.of(&start));
            start.x_start
        });
        let (sample, correction) = pair.predictor.apply(x, &self.outputs);
        let Some(corrector) = &pair.corrector else {
            return Step { sample, x_start: newest, correction };
        };
        let predicted = self.evaluate(model, &sample, index + 1);
        let output = plan.interpolated.of(&predicted);
        let past = self.outputs.iter().take(corrector.correction.len() - 1);
        let (sample, correction) = corrector.apply(x, past.chain([&output]));
        self.outputs.push_front(output);
        self.outputs.truncate(plan.steps[index + 1].predictor.order());
        self.newest = Some(predicted.x_start.shallow_clone());
        Step { sample, x_start: predicted.x_start, correction }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_nodes_integrate_a_parabola_exactly() {
        let parabola = |u: f64| 2.0 - u + 3.0 * u * u;
        for z in [-0.7, 0.4] {
            let exact = 2.0 * phi(1, z) - phi(2, z) + 6.0 * phi(3, z);
            for variant in [Variant::Bh1, Variant::Bh2] {
                let nodes = [-0.8, 1.0];
                let slopes = slopes(z, &nodes, variant);
                let sum: f64 = slopes.iter().zip(nodes).map(|(slope, u)| slope * (parabola(u) - parabola(0.0))).sum();
                let g = phi(1, z) * parabola(0.0) + sum;
                assert!((g - exact).abs() < 1e-12, "{variant:?}, {z}: {g} is not {exact}");
            }
        }
    }

    #[test]
    fn systems_are_solved_with_a_zero_on_the_diagonal() {
        let solution = solve(vec![(vec![0.0, 2.0], 4.0), (vec![1.0, 1.0], 5.0)]);
        assert_eq!(solution, [3.0, 2.0]);
    }
}
