//! Detects a loss that jumps.

use std::collections::VecDeque;

/// The number of losses whose median is the reference.
const WINDOW: usize = 100;

/// The least number of losses that make a reference.
const LEAST: usize = 20;

/// Compares the loss of each step with the median of the losses before. The median hardly changes when some losses are
/// large.
#[derive(Debug)]
pub(super) struct LossWatch {
    factor: f64,
    losses: VecDeque<f64>,
    /// Whether the last loss exceeded the bound.
    is_above: bool,
}

impl LossWatch {
    /// Reports losses greater than `factor` times the median.
    pub(super) fn new(factor: f64) -> Self {
        Self { factor, losses: VecDeque::with_capacity(WINDOW), is_above: false }
    }

    /// Adds the loss of a step. Returns the median of the losses before if this loss exceeds the bound and the last one did
    /// not: losses that stay large are one jump. A loss that is not finite is no jump, and is left out.
    pub(super) fn add(&mut self, loss: f64) -> Option<f64> {
        if !loss.is_finite() {
            return None;
        }
        let median = self.median();
        let was_above = std::mem::replace(&mut self.is_above, median.is_some_and(|median| loss > self.factor * median));
        if self.losses.len() == WINDOW {
            self.losses.pop_front();
        }
        self.losses.push_back(loss);
        median.filter(|_| self.is_above && !was_above)
    }

    /// Returns the median, or `None` before there are enough losses.
    fn median(&self) -> Option<f64> {
        if self.losses.len() < LEAST {
            return None;
        }
        let mut losses: Vec<f64> = self.losses.iter().copied().collect();
        losses.sort_by(f64::total_cmp);
        Some(losses[losses.len() / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_reported_once_until_the_loss_is_low_again() {
        let mut watch = LossWatch::new(3.0);
        let jumps = |watch: &mut LossWatch, losses: &[f64]| -> Vec<Option<f64>> {
            losses.iter().map(|&loss| watch.add(loss)).collect()
        };
        assert_eq!(jumps(&mut watch, &[50.0; LEAST - 1]), [None; LEAST - 1], "too few losses");
        assert_eq!(jumps(&mut watch, &[1.0; WINDOW]), [None; WINDOW]);
        let found = jumps(&mut watch, &[2.9, 3.1, 40.0, f64::NAN, 1.0, f64::INFINITY, 3.1]);
        assert_eq!(found, [None, Some(1.0), None, None, None, None, Some(1.0)]);
    }
}
