//! Mean and deviation of several estimates.

/// The mean and the standard deviation of several estimates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanSpread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of the population: with the divisor n.
    pub deviation: f64,
}

impl MeanSpread {
    /// Returns mean and deviation of at least one value.
    pub(super) fn of(values: &[f64]) -> Self {
        let num = values.len() as f64;
        let mean = values.iter().sum::<f64>() / num;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / num;
        Self { mean, deviation: variance.sqrt() }
    }
}
