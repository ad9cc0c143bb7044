//! Linear updates of a state, and the coefficients of exponential integrators.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::levels::Level;

/// How the second-order term of DPM-Solver is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SolverType {
    /// At the middle of the step, as published for sampling.
    Midpoint,
    /// By the Taylor expansion.
    Taylor,
}

/// What a solver interpolates between its evaluations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolated {
    /// x_0.
    Data,
    /// ε.
    Noise,
}

/// A new state as a sum: `state` times the old one, `first` times the first output, and a correction, which is a sum
/// over the outputs. The first two are the step of first order. Outputs are ε or x_0 of several evaluations.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Update {
    pub(super) state: f64,
    pub(super) first: f64,
    /// One factor for each output; none for a step of first order.
    pub(super) correction: Vec<f64>,
}

impl Update {
    /// The number of outputs that the update takes.
    pub(super) fn order(&self) -> usize {
        self.correction.len().max(1)
    }

    /// Returns the new state and the correction in it.
    pub(super) fn apply<'a>(
        &self,
        x: &Tensor,
        outputs: impl IntoIterator<Item = &'a Tensor> + Clone,
    ) -> (Tensor, Option<Tensor>) {
        let mut sample = x * self.state;
        if let Some(first) = outputs.clone().into_iter().next() {
            sample += first * self.first;
        }
        let mut terms = self.correction.iter().zip(outputs).map(|(&factor, output)| output * factor);
        let correction = terms.next().map(|first| terms.fold(first, |sum, term| sum + term));
        if let Some(correction) = &correction {
            sample += correction;
        }
        (sample, correction)
    }
}

/// A step between two noise levels in the variables of an exponential integrator: x' = state x + scale G, where G is
/// the integral of exp((1 - u) z) m(u) over u in \[0, 1\] and m is interpolated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interval {
    /// lambda' - lambda.
    pub(super) h: f64,
    pub(super) z: f64,
    state: f64,
    scale: f64,
}

impl Interval {
    /// The probability flow ODE (Lu et al. 2022, proposition 3.1; Lu et al. 2022b, proposition 4.1).
    pub(super) fn ode(interpolated: Interpolated, from: &Level, to: &Level) -> Self {
        let h = to.lambda - from.lambda;
        match interpolated {
            Interpolated::Data => Self { h, z: -h, state: to.sigma / from.sigma, scale: to.alpha * h },
            Interpolated::Noise => Self { h, z: h, state: to.alpha / from.alpha, scale: -to.sigma * h },
        }
    }

    /// The reverse SDE in x_0 (Lu et al. 2022b, section 5).
    pub(super) fn sde(from: &Level, to: &Level) -> Self {
        let h = to.lambda - from.lambda;
        Self { h, z: -2.0 * h, state: to.sigma / from.sigma * (-h).exp(), scale: 2.0 * to.alpha * h }
    }

    /// The update in which G is phi_1 m_0 plus a sum over `slopes`: the factors of m_1 - m_0, m_2 - m_0, ...
    pub(super) fn update(&self, slopes: &[f64]) -> Update {
        let mut correction = Vec::new();
        if !slopes.is_empty() {
            correction.push(-self.scale * slopes.iter().sum::<f64>());
            correction.extend(slopes.iter().map(|slope| self.scale * slope));
        }
        Update { state: self.state, first: self.scale * phi(1, self.z), correction }
    }
}

/// phi_k(z), the integral of exp((1 - u) z) u^(k-1) / (k-1)! over u in \[0, 1\], for k of 1 or more.
pub(super) fn phi(k: u32, z: f64) -> f64 {
    let inverse_factorial = |n: u32| 1.0 / f64::from((1..=n).product::<u32>());
    if z.abs() < 1.0 {
        // The recurrence below cancels near 0.
        let mut term = inverse_factorial(k);
        let mut sum = term;
        for n in 1..24 {
            term *= z / f64::from(n + k);
            sum += term;
        }
        return sum;
    }
    (1..k).fold(z.exp_m1() / z, |value, j| (value - inverse_factorial(j)) / z)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phi_is_its_integral() {
        for z in [-9.0, -1.0001, -0.9999, -0.3, -1e-9, 0.0, 0.2, 0.9999, 1.0001, 9.0] {
            for k in 1..=4u32 {
                let factorial = f64::from((1..k).product::<u32>());
                let integrand = |u: f64| ((1.0 - u) * z).exp() * u.powi(k as i32 - 1) / factorial;
                // Simpson's rule.
                let n = 2000;
                let sum: f64 = (0..=n)
                    .map(|i| {
                        let weight = if i == 0 || i == n {
                            1.0
                        } else if i % 2 == 1 {
                            4.0
                        } else {
                            2.0
                        };
                        weight * integrand(f64::from(i) / f64::from(n))
                    })
                    .sum();
                let expected = sum / (3.0 * f64::from(n));
                let error = (phi(k, z) - expected).abs() / expected;
                assert!(error < 1e-9, "phi_{k}({z}): {error}");
            }
        }
    }
}
