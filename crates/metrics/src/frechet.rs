//! The Frechet distance of two Gaussians. On pool features it is the FID, on spatial features the sFID.

use faer::{Mat, Side};

use super::{Features, MetricError};

/// Added to both diagonals if the square root cannot be computed.
const DIAGONAL_OFFSET: f64 = 1e-6;
/// The number of rows that are converted to float64 at a time.
const BLOCK: usize = 1024;

/// The mean and the covariance of features, in float64.
#[derive(Debug, Clone)]
pub struct Statistics {
    /// The mean, `[width]`.
    pub mean: Vec<f64>,
    /// The covariance, `[width, width]`, with the divisor n - 1.
    pub covariance: Mat<f64>,
}

impl Statistics {
    /// Returns the statistics of features.
    ///
    /// # Errors
    /// [`MetricError::TooFew`] if there are fewer than two images.
    pub fn of(features: &Features<'_>) -> Result<Self, MetricError> {
        features.check_num(2, "the Frechet distance")?;
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

/// Returns `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2)` for the means m and the covariances C.
///
/// # Errors
/// [`MetricError::Width`] if the widths differ. [`MetricError::NoRoot`] if the root cannot be computed even with 1e-6
/// added to both diagonals, for example because a covariance is not finite.
pub fn frechet_distance(left: &Statistics, right: &Statistics) -> Result<f64, MetricError> {
    let (widths, sizes) = ([left.mean.len(), right.mean.len()], [&left.covariance, &right.covariance]);
    if widths[0] != widths[1] || sizes.iter().any(|c| c.nrows() != widths[0] || c.ncols() != widths[0]) {
        return Err(MetricError::Width { left: widths[0], right: widths[1] });
    }
    let between: f64 = left.mean.iter().zip(&right.mean).map(|(a, b)| (a - b) * (a - b)).sum();
    let trace = |matrix: &Mat<f64>| matrix.diagonal().column_vector().iter().sum::<f64>();
    let root = trace_of_root(&left.covariance, &right.covariance)
        .or_else(|| trace_of_root(&with_offset(&left.covariance), &with_offset(&right.covariance)))
        .ok_or(MetricError::NoRoot)?;
    Ok(between + trace(&left.covariance) + trace(&right.covariance) - 2.0 * root)
}

/// Adds [`DIAGONAL_OFFSET`] to the diagonal.
fn with_offset(covariance: &Mat<f64>) -> Mat<f64> {
    Mat::from_fn(covariance.nrows(), covariance.ncols(), |i, j| {
        covariance[(i, j)] + if i == j { DIAGONAL_OFFSET } else { 0.0 }
    })
}

/// Returns `tr((A B)^1/2)` of two covariances, or `None` if it cannot be computed.
///
/// A B has the same eigenvalues as `A^1/2 B A^1/2`. That matrix is symmetric, so its eigenvalues are real, and their
/// computation is stable even if A or B is singular. No square root of a general matrix is needed.
fn trace_of_root(a: &Mat<f64>, b: &Mat<f64>) -> Option<f64> {
    let eigen = a.self_adjoint_eigen(Side::Lower).ok()?;
    let (vectors, values) = (eigen.U(), eigen.S().column_vector());
    let half = Mat::from_fn(a.nrows(), a.ncols(), |i, j| vectors[(i, j)] * values[j].max(0.0).sqrt());
    let product = half.transpose() * b * &half;
    let values = product.self_adjoint_eigenvalues(Side::Lower).ok()?;
    // Because of rounding, an eigenvalue of 0 can become slightly negative.
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
    fn the_covariance_has_the_divisor_n_minus_1() {
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
    fn diagonal_covariances_give_the_closed_form() {
        // 3^2 + (sqrt 4 - sqrt 1)^2 + (sqrt 9 - sqrt 16)^2
        let distance = frechet_distance(&diagonal([0.0, 1.0], [4.0, 9.0]), &diagonal([3.0, 1.0], [1.0, 16.0])).unwrap();
        assert!((distance - 11.0).abs() < 1e-12, "{distance}");
    }

    #[test]
    fn singular_covariances_work_and_covariances_that_are_not_finite_are_errors() {
        let flat = diagonal([0.0, 0.0], [4.0, 0.0]);
        assert!(frechet_distance(&flat, &flat).unwrap().abs() < 1e-12);
        let broken = diagonal([0.0, 0.0], [f64::NAN, 1.0]);
        assert_eq!(frechet_distance(&flat, &broken).unwrap_err(), MetricError::NoRoot);
    }

    #[test]
    fn one_image_is_too_few() {
        let one = Features::new(&[1.0, 2.0], 2).unwrap();
        assert!(matches!(Statistics::of(&one), Err(MetricError::TooFew { needed: 2, given: 1, .. })));
    }
}
