//! The Frechet distance between two Gaussians: FID on pool features, sFID on spatial ones.

use faer::{Mat, Side};

use super::{Features, MetricError};

/// What is added to both diagonals where the square root cannot be computed without.
const DIAGONAL: f64 = 1e-6;
/// Rows converted to float64 at a time.
const BLOCK: usize = 1024;

/// Mean and covariance of features, in float64.
#[derive(Debug, Clone)]
pub struct Statistics {
    /// `[width]`.
    pub mean: Vec<f64>,
    /// `[width, width]`, divided by n - 1.
    pub covariance: Mat<f64>,
}

impl Statistics {
    /// The statistics of a table of features.
    ///
    /// # Errors
    /// [`MetricError::TooFew`] for fewer than two images.
    pub fn of(features: &Features<'_>) -> Result<Self, MetricError> {
        features.at_least(2, "the Frechet distance")?;
        let (num, width) = (features.num(), features.width());
        let mut mean = vec![0.0; width];
        for row in features.values().chunks_exact(width) {
            for (sum, &value) in mean.iter_mut().zip(row) {
                *sum += f64::from(value);
            }
        }
        mean.iter_mut().for_each(|sum| *sum /= num as f64);
        let mut covariance = Mat::zeros(width, width);
        for start in (0..num).step_by(BLOCK) {
            let mut rows = features.matrix(start..num.min(start + BLOCK));
            for (column, &mean) in mean.iter().enumerate() {
                rows.col_mut(column).iter_mut().for_each(|value| *value -= mean);
            }
            covariance += rows.transpose() * &rows;
        }
        covariance *= faer::Scale(1.0 / (num - 1) as f64);
        Ok(Self { mean, covariance })
    }
}

/// `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2)`.
///
/// # Errors
/// [`MetricError::Width`] where the two differ in width; [`MetricError::NoRoot`] where the root cannot be computed
/// even with 1e-6 on both diagonals, as for covariances that are not finite.
pub fn frechet_distance(left: &Statistics, right: &Statistics) -> Result<f64, MetricError> {
    let (widths, sizes) = ([left.mean.len(), right.mean.len()], [&left.covariance, &right.covariance]);
    if widths[0] != widths[1] || sizes.iter().any(|c| c.nrows() != widths[0] || c.ncols() != widths[0]) {
        return Err(MetricError::Width { left: widths[0], right: widths[1] });
    }
    let between: f64 = left.mean.iter().zip(&right.mean).map(|(a, b)| (a - b) * (a - b)).sum();
    let trace = |matrix: &Mat<f64>| matrix.diagonal().column_vector().iter().sum::<f64>();
    let root = trace_of_root(&left.covariance, &right.covariance)
        .or_else(|| trace_of_root(&raised(&left.covariance), &raised(&right.covariance)))
        .ok_or(MetricError::NoRoot)?;
    Ok(between + trace(&left.covariance) + trace(&right.covariance) - 2.0 * root)
}

fn raised(covariance: &Mat<f64>) -> Mat<f64> {
    Mat::from_fn(covariance.nrows(), covariance.ncols(), |i, j| {
        covariance[(i, j)] + if i == j { DIAGONAL } else { 0.0 }
    })
}

/// `tr((A B)^1/2)` of two covariances.
///
/// A B has the eigenvalues of `A^1/2 B A^1/2`, which is symmetric, so its eigenvalues are real and found stably
/// even where A or B is singular: no general matrix root is needed.
fn trace_of_root(a: &Mat<f64>, b: &Mat<f64>) -> Option<f64> {
    let eigen = a.self_adjoint_eigen(Side::Lower).ok()?;
    let (vectors, values) = (eigen.U(), eigen.S().column_vector());
    let half = Mat::from_fn(a.nrows(), a.ncols(), |i, j| vectors[(i, j)] * values[j].max(0.0).sqrt());
    let product = half.transpose() * b * &half;
    let values = product.self_adjoint_eigenvalues(Side::Lower).ok()?;
    // Rounding turns zeros into tiny negative numbers.
    let trace: f64 = values.iter().map(|value| value.max(0.0).sqrt()).sum();
    (trace.is_finite() && values.iter().all(|value| value.is_finite())).then_some(trace)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn diagonal(mean: [f64; 2], variance: [f64; 2]) -> Statistics {
        let covariance = Mat::from_fn(2, 2, |i, j| if i == j { variance[i] } else { 0.0 });
        Statistics { mean: mean.to_vec(), covariance }
    }

    #[test]
    fn statistics_divide_by_one_less_than_the_number() {
        let table = [1.0, 10.0, 2.0, 20.0, 6.0, 0.0];
        let statistics = Statistics::of(&Features::new(&table, 2).unwrap()).unwrap();
        assert_eq!(statistics.mean, [3.0, 10.0]);
        let expected = [[7.0, -20.0], [-20.0, 100.0]];
        for (i, row) in expected.iter().enumerate() {
            for (j, value) in row.iter().enumerate() {
                assert!((statistics.covariance[(i, j)] - value).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn independent_gaussians_have_a_closed_form() {
        // 3^2 + (sqrt 4 - sqrt 1)^2 + (sqrt 9 - sqrt 16)^2
        let distance = frechet_distance(&diagonal([0.0, 1.0], [4.0, 9.0]), &diagonal([3.0, 1.0], [1.0, 16.0])).unwrap();
        assert!((distance - 11.0).abs() < 1e-12, "{distance}");
    }

    #[test]
    fn a_singular_covariance_has_a_root_and_one_that_is_not_finite_has_none() {
        let flat = diagonal([0.0, 0.0], [4.0, 0.0]);
        assert!(frechet_distance(&flat, &flat).unwrap().abs() < 1e-12);
        let broken = diagonal([0.0, 0.0], [f64::NAN, 1.0]);
        assert_eq!(frechet_distance(&flat, &broken).unwrap_err(), MetricError::NoRoot);
    }

    #[test]
    fn one_image_has_no_covariance() {
        let one = Features::new(&[1.0, 2.0], 2).unwrap();
        assert!(matches!(Statistics::of(&one), Err(MetricError::TooFew { needed: 2, given: 1, .. })));
    }
}
