//! Metrics with the published evaluator's numerics: means, their difference and the inception score in float32, sums
//! one picture after another. Its precision and recall are in [`half`](super::half).

use super::frechet::distance_of_covariances;
use super::{Features, MetricError, Statistics};

/// A mean, in the precision in which it was computed or stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Mean {
    /// In float32.
    Float32(Vec<f32>),
    /// In float64.
    Float64(Vec<f64>),
}

/// A mean and a covariance in float64, as the published evaluator has them.
#[derive(Debug, Clone)]
pub struct AdmStatistics {
    mean: Mean,
    statistics: Statistics,
}

impl AdmStatistics {
    /// Returns given statistics. `covariance` is `[width, width]`, row-major.
    ///
    /// # Errors
    /// As for [`Statistics::given`].
    pub fn given(mean: Mean, covariance: &[f64]) -> Result<Self, MetricError> {
        let statistics = Statistics::given(mean.to_float64(), covariance)?;
        Ok(Self { mean, statistics })
    }

    /// Returns the mean.
    #[must_use]
    pub fn mean(&self) -> &Mean {
        &self.mean
    }

    /// Returns the statistics in float64.
    #[must_use]
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }
}

impl Mean {
    fn to_float64(&self) -> Vec<f64> {
        match self {
            Self::Float32(mean) => mean.iter().map(|&value| f64::from(value)).collect(),
            Self::Float64(mean) => mean.clone(),
        }
    }
}

/// Returns the statistics of features: the mean in float32, summed one picture after another; the covariance in float64
/// about the mean in float64, with the divisor n - 1.
///
/// # Errors
/// [`MetricError::TooFew`] if there are fewer than two images.
pub fn statistics(features: &Features<'_>) -> Result<AdmStatistics, MetricError> {
    let statistics = Statistics::of(features)?;
    Ok(AdmStatistics { mean: Mean::Float32(mean(features.values(), features.width())), statistics })
}

/// Returns the Frechet distance. The difference of two means in float32 is squared and summed in float32.
///
/// # Errors
/// As for [`frechet_distance`](super::frechet_distance).
pub fn frechet_distance(left: &AdmStatistics, right: &AdmStatistics) -> Result<f64, MetricError> {
    Ok(between_means(left, right) + distance_of_covariances(&left.statistics, &right.statistics)?)
}

/// Returns [`frechet_distance`] and the distance in float64, for the time of one: both have the same covariances.
///
/// # Errors
/// As for [`frechet_distance`](super::frechet_distance).
pub fn both_frechet_distances(left: &AdmStatistics, right: &AdmStatistics) -> Result<[f64; 2], MetricError> {
    let covariances = distance_of_covariances(&left.statistics, &right.statistics)?;
    let means = left.statistics.mean().iter().zip(right.statistics.mean());
    let exact: f64 = means.map(|(a, b)| (a - b) * (a - b)).sum();
    Ok([between_means(left, right) + covariances, exact + covariances])
}

/// Returns the square distance of the means. That of two means in float32 is computed in float32.
fn between_means(left: &AdmStatistics, right: &AdmStatistics) -> f64 {
    match (&left.mean, &right.mean) {
        (Mean::Float32(left), Mean::Float32(right)) => {
            let squares: Vec<f32> = left.iter().zip(right).map(|(a, b)| (a - b) * (a - b)).collect();
            f64::from(sum(&squares))
        }
        (left, right) => left.to_float64().iter().zip(right.to_float64()).map(|(a, b)| (a - b) * (a - b)).sum(),
    }
}

/// Returns the inception score of logits `[num, classes]`, all in float32: the mean over pieces of `split` consecutive
/// images, of which the last may be shorter. The evaluator's `split` is 5000.
///
/// A probability that is 0 in float32 adds 0. (The evaluator itself returns NaN then.)
///
/// # Errors
/// [`MetricError::TooFew`] if there is no image. [`MetricError::Zero`] if `split` is 0.
pub fn inception_score(logits: &Features<'_>, split: usize) -> Result<f64, MetricError> {
    logits.check_num(1, "the inception score")?;
    if split == 0 {
        return Err(MetricError::Zero { what: "the number of images of a piece" });
    }
    let classes = logits.width();
    let scores: Vec<f32> =
        logits.values().chunks(split.saturating_mul(classes)).map(|part| score(part, classes)).collect();
    Ok(f64::from(sum(&scores) / scores.len() as f32))
}

/// Returns the score of one piece.
fn score(logits: &[f32], classes: usize) -> f32 {
    let probabilities: Vec<f32> = logits.chunks_exact(classes).flat_map(softmax).collect();
    let logarithms: Vec<f32> = mean(&probabilities, classes).iter().map(|mean| mean.ln()).collect();
    let divergences: Vec<f32> = probabilities
        .chunks_exact(classes)
        .map(|row| {
            let terms = row.iter().zip(&logarithms).map(|(&p, mean)| if p > 0.0 { p * (p.ln() - mean) } else { 0.0 });
            sum(&terms.collect::<Vec<f32>>())
        })
        .collect();
    (sum(&divergences) / divergences.len() as f32).exp()
}

/// Returns the mean of rows in float32, summed one row after another.
fn mean(values: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f32; width];
    for row in values.chunks_exact(width) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    let num = (values.len() / width) as f32;
    sums.iter().map(|sum| sum / num).collect()
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let total = sum(&powers);
    powers.iter().map(|power| power / total).collect()
}

/// Sums in float32 by halves, so that the error stays small, as numerical libraries do along a row.
fn sum(values: &[f32]) -> f32 {
    if values.len() <= 16 {
        return values.iter().sum();
    }
    let (first, second) = values.split_at(values.len() / 2);
    sum(first) + sum(second)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_mean_is_summed_in_float32() {
        // 2^24 + 1 is 2^24 in float32, so each 1 is lost.
        let values = [16_777_216.0, 1.0, 1.0, 1.0];
        let table = Features::new(&values, 1).unwrap();
        assert_eq!(*statistics(&table).unwrap().mean(), Mean::Float32(vec![4_194_304.0]));
        assert_eq!(statistics(&table).unwrap().statistics().mean(), [4_194_304.75]);
    }

    #[test]
    fn the_difference_of_means_is_in_the_coarser_of_both_precisions_only_if_both_are() {
        let at = |mean| AdmStatistics::given(mean, &[1.0]).unwrap();
        let (near, far) = (0.1_f32, 1000.0_f32);
        let single = frechet_distance(&at(Mean::Float32(vec![near])), &at(Mean::Float32(vec![far]))).unwrap();
        assert_eq!(single, f64::from((near - far) * (near - far)));
        let double = frechet_distance(&at(Mean::Float64(vec![0.1])), &at(Mean::Float32(vec![far]))).unwrap();
        assert_eq!(double, (0.1 - 1000.0) * (0.1 - 1000.0));
    }

    #[test]
    fn both_distances_are_those_that_are_computed_alone() {
        let values = [[1.0, 4.0, 2.0, 0.0, 0.5, 3.0], [2.0, 1.0, 0.0, 6.0, 4.5, 1.0]];
        let [left, right] = values.map(|values| statistics(&Features::new(&values, 2).unwrap()).unwrap());
        let exact = crate::frechet_distance(left.statistics(), right.statistics()).unwrap();
        let both = both_frechet_distances(&left, &right).unwrap();
        assert_eq!(both, [frechet_distance(&left, &right).unwrap(), exact]);
    }

    #[test]
    fn certain_and_varied_scores_the_number_of_classes() {
        let logits = [200.0, 0.0, 0.0, 200.0, 200.0, 0.0];
        let table = Features::new(&logits, 2).unwrap();
        assert_eq!(inception_score(&table, 2).unwrap(), 1.5, "the second piece has one image and scores 1");
        assert_eq!(
            inception_score(&table, 0).unwrap_err(),
            MetricError::Zero { what: "the number of images of a piece" }
        );
    }
}
