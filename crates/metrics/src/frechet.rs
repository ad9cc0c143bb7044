//! The Frechet distance of two Gaussians. On pool features it is the FID, on spatial features the sFID.
//!
//! `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2)` for the means m and the covariances C (Heusel et al., "GANs trained by a
//! two time-scale update rule converge to a local Nash equilibrium", 2017).

use faer::{Mat, MatRef, Side};

use super::error::check_finite;
use super::products::{add_gram, product};
use super::tiles::ranges;
use super::{Features, MetricError};

/// Added to both diagonals if the square root cannot be computed.
const DIAGONAL_OFFSET: f64 = 1e-6;
/// The number of rows that are converted to float64 at a time.
const BLOCK: usize = 1024;
/// By how much mirrored entries of a given covariance may differ, in units of the largest variance. Statistics that
/// were computed or stored in float32 differ by less.
const ASYMMETRY: f64 = 1e-4;
/// How far below 0 an eigenvalue of a covariance may be, in units of the largest. Rounding of a covariance to float32
/// stays below.
const NEGATIVE: f64 = 1e-4;

/// The mean and the covariance of features, in float64.
#[derive(Debug, Clone)]
pub struct Statistics {
    mean: Vec<f64>,
    covariance: Mat<f64>,
    /// The largest rank that the covariance can have.
    rank: usize,
}

impl Statistics {
    /// Returns the statistics of features, with the divisor n - 1. The covariance is computed about the mean.
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
        for block in ranges(num, BLOCK) {
            let rows = Mat::from_fn(block.len(), width, |i, j| f64::from(features.row(block.start + i)[j]) - mean[j]);
            add_gram(covariance.as_mut(), rows.as_ref());
        }
        let divisor = (num - 1) as f64;
        let covariance = Mat::from_fn(width, width, |i, j| covariance[(i.max(j), i.min(j))] / divisor);
        Ok(Self::computed(mean, covariance, num as u64))
    }

    /// Returns given statistics, for example of a published reference. `covariance` is `[width, width]`, row-major.
    ///
    /// # Errors [`MetricError::PartSize`] if the covariance does not belong to the mean. [`MetricError::PartNotFinite`]
    /// if a value is NaN or infinite. [`MetricError::Negative`] if a variance is negative, and
    /// [`MetricError::NotSymmetric`] if mirrored entries differ by more than 1e-4 of the largest variance. Smaller
    /// differences are averaged.
    pub fn given(mean: Vec<f64>, covariance: &[f64]) -> Result<Self, MetricError> {
        let width = mean.len();
        let needed = width.saturating_mul(width);
        if width == 0 || covariance.len() != needed {
            return Err(MetricError::PartSize { part: "the covariance", given: covariance.len(), needed, width });
        }
        check_finite("the mean", &mean)?;
        check_finite("the covariance", covariance)?;
        let given = MatRef::from_row_major_slice(covariance, width, width);
        let largest = (0..width).map(|i| given[(i, i)]).fold(0.0, f64::max);
        for row in 0..width {
            let value = given[(row, row)];
            if value < -NEGATIVE * largest || (value < 0.0 && largest == 0.0) {
                return Err(MetricError::Negative { part: "the covariance", index: row, value });
            }
            for column in 0..row {
                let (value, mirrored) = (given[(row, column)], given[(column, row)]);
                if (value - mirrored).abs() > ASYMMETRY * largest {
                    return Err(MetricError::NotSymmetric { row, column, value, mirrored });
                }
            }
        }
        let covariance = Mat::from_fn(width, width, |i, j| 0.5 * given[(i, j)] + 0.5 * given[(j, i)]);
        Ok(Self { mean, covariance, rank: width })
    }

    /// Returns the statistics of `num` images. The covariance is symmetric.
    pub(super) fn computed(mean: Vec<f64>, covariance: Mat<f64>, num: u64) -> Self {
        let rank = usize::try_from(num - 1).unwrap_or(usize::MAX).min(mean.len());
        Self { mean, covariance, rank }
    }

    /// Returns the number of features.
    #[must_use]
    pub fn width(&self) -> usize {
        self.mean.len()
    }

    /// Returns the mean, `[width]`.
    #[must_use]
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Returns an entry of the covariance.
    ///
    /// # Panics
    /// If `row` or `column` is not less than the width.
    #[must_use]
    pub fn covariance_at(&self, row: usize, column: usize) -> f64 {
        self.covariance[(row, column)]
    }

    /// Returns a copy of the covariance, `[width, width]`, row-major.
    #[must_use]
    pub fn covariance(&self) -> Vec<f64> {
        // The matrix is symmetric, so its columns are its rows.
        self.covariance.col_iter().flat_map(|column| column.iter().copied()).collect()
    }

    /// Returns the trace of the covariance.
    fn trace(&self) -> f64 {
        self.covariance.diagonal().column_vector().iter().sum()
    }
}

/// Returns `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2)` for the means m and the covariances C.
///
/// It needs about 8 width^3 operations: a Cholesky factor, two products and the eigenvalues of a symmetric matrix. If
/// there are fewer images than features, the eigenvalues of a matrix as large as the smaller rank suffice.
///
/// # Errors [`MetricError::Width`] if the widths differ. [`MetricError::NoRoot`] if there is no root, even with 1e-6
/// added to both diagonals: one of the matrices has a clearly negative eigenvalue.
pub fn frechet_distance(left: &Statistics, right: &Statistics) -> Result<f64, MetricError> {
    check_widths(left, right)?;
    let between: f64 = left.mean.iter().zip(&right.mean).map(|(a, b)| (a - b) * (a - b)).sum();
    Ok(between + distance_of_covariances(left, right)?)
}

/// Returns `tr(C1 + C2 - 2 (C1 C2)^1/2)`.
pub(super) fn distance_of_covariances(left: &Statistics, right: &Statistics) -> Result<f64, MetricError> {
    check_widths(left, right)?;
    let (factored, other) = if left.rank <= right.rank { (left, right) } else { (right, left) };
    let root = trace_of_root(&factored.covariance, factored.rank, &other.covariance)
        .or_else(|| trace_of_root(&with_offset(factored), factored.width(), &with_offset(other)))
        .ok_or(MetricError::NoRoot)?;
    Ok(left.trace() + right.trace() - 2.0 * root)
}

fn check_widths(left: &Statistics, right: &Statistics) -> Result<(), MetricError> {
    if left.width() == right.width() {
        return Ok(());
    }
    Err(MetricError::Width { left: left.width(), right: right.width() })
}

/// Returns the covariance with [`DIAGONAL_OFFSET`] added to its diagonal.
fn with_offset(statistics: &Statistics) -> Mat<f64> {
    let mut covariance = statistics.covariance.clone();
    covariance.diagonal_mut().column_vector_mut().iter_mut().for_each(|variance| *variance += DIAGONAL_OFFSET);
    covariance
}

/// Returns `tr((A B)^1/2)` of two covariances, or `None` if one of them has a negative eigenvalue that is not rounding.
/// `rank` is an upper bound of the rank of A.
///
/// If A = F F', A B has the same eigenvalues as F' B F, apart from zeros. That matrix is symmetric, so its eigenvalues
/// are real, and their computation is stable even if A or B is singular. No square root of a general matrix is needed.
fn trace_of_root(a: &Mat<f64>, rank: usize, b: &Mat<f64>) -> Option<f64> {
    let factor = factor(a, rank)?;
    let inner = product(factor.transpose(), product(b.as_ref(), factor.as_ref()).as_ref());
    let values = inner.self_adjoint_eigenvalues(Side::Lower).ok()?;
    is_nearly_positive(&values).then(|| values.iter().map(|value| value.max(0.0).sqrt()).sum())
}

/// Returns F with at most `rank` columns for which F F' is `a`, or `None` if there is none.
fn factor(a: &Mat<f64>, rank: usize) -> Option<Mat<f64>> {
    let width = a.nrows();
    if rank == width
        && let Ok(cholesky) = a.llt(Side::Lower)
    {
        return Some(Mat::from_fn(width, width, |i, j| if i >= j { cholesky.L()[(i, j)] } else { 0.0 }));
    }
    // Directions without variance would only add the root of their rounding errors, so they are left out.
    let eigen = a.self_adjoint_eigen(Side::Lower).ok()?;
    let (vectors, values) = (eigen.U(), eigen.S().column_vector());
    let values: Vec<f64> = values.iter().copied().collect();
    if !is_nearly_positive(&values) {
        return None;
    }
    let largest = values.last().copied().unwrap_or(0.0);
    let zero = largest * f64::EPSILON * width as f64;
    // Eigenvalues are in ascending order.
    let first = values.partition_point(|&value| value <= zero).max(width - rank);
    Some(Mat::from_fn(width, width - first, |i, j| vectors[(i, first + j)] * values[first + j].sqrt()))
}

/// Returns whether ascending eigenvalues are finite and not negative, apart from rounding.
fn is_nearly_positive(values: &[f64]) -> bool {
    let largest = values.last().copied().unwrap_or(0.0);
    values.iter().all(|value| value.is_finite() && *value >= -NEGATIVE * largest.abs()) && largest >= 0.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tests::pool_like;

    fn diagonal(mean: [f64; 2], variance: [f64; 2]) -> Statistics {
        Statistics::given(mean.to_vec(), &[variance[0], 0.0, 0.0, variance[1]]).unwrap()
    }

    #[test]
    fn the_covariance_has_the_divisor_n_minus_1() {
        let table = [1.0, 10.0, 2.0, 20.0, 6.0, 0.0];
        let statistics = Statistics::of(&Features::new(&table, 2).unwrap()).unwrap();
        assert_eq!(statistics.mean(), [3.0, 10.0]);
        for (value, expected) in statistics.covariance().into_iter().zip([7.0, -20.0, -20.0, 100.0]) {
            assert!((value - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn diagonal_covariances_give_the_closed_form() {
        // 3^2 + (sqrt 4 - sqrt 1)^2 + (sqrt 9 - sqrt 16)^2
        let distance = frechet_distance(&diagonal([0.0, 1.0], [4.0, 9.0]), &diagonal([3.0, 1.0], [1.0, 16.0])).unwrap();
        assert!((distance - 11.0).abs() < 1e-12, "{distance}");
    }

    #[test]
    fn covariances_that_do_not_commute_give_the_closed_form() {
        // tr (A B)^1/2 of 2x2 matrices is (tr(A B) + 2 (det A det B)^1/2)^1/2.
        let a = Statistics::given(vec![0.0; 2], &[2.0, 1.0, 1.0, 3.0]).unwrap();
        let b = Statistics::given(vec![0.0; 2], &[1.0, -0.5, -0.5, 4.0]).unwrap();
        let root = (13.0 + 2.0 * (5.0_f64 * 3.75).sqrt()).sqrt();
        assert!((frechet_distance(&a, &b).unwrap() - (10.0 - 2.0 * root)).abs() < 1e-13);
    }

    #[test]
    fn fewer_images_than_features_give_the_singular_values_of_the_rows() {
        let width = 40;
        let tables = [pool_like(6, width, 1), pool_like(9, width, 2)];
        let [left, right] = [0, 1].map(|index| Statistics::of(&Features::new(&tables[index], width).unwrap()).unwrap());
        // The trace of the root is the sum of the singular values of Xl Xr' for centred rows X.
        let centred = |index: usize, mean: &[f64]| {
            let rows = tables[index].len() / width;
            let scale = 1.0 / ((rows - 1) as f64).sqrt();
            Mat::from_fn(rows, width, |i, j| (f64::from(tables[index][i * width + j]) - mean[j]) * scale)
        };
        let between = centred(0, left.mean()) * centred(1, right.mean()).transpose();
        let root: f64 = between.singular_values().unwrap().iter().sum();
        let expected = left.trace() + right.trace() - 2.0 * root;
        let distance = distance_of_covariances(&left, &right).unwrap();
        assert!((distance / expected - 1.0).abs() < 1e-12, "{distance} {expected}");
        assert!(frechet_distance(&left, &left).unwrap().abs() < 1e-10 * left.trace());
    }

    #[test]
    fn singular_covariances_work() {
        let flat = diagonal([0.0, 0.0], [4.0, 0.0]);
        assert!(frechet_distance(&flat, &flat).unwrap().abs() < 1e-12);
        let zero = diagonal([0.0, 0.0], [0.0, 0.0]);
        assert!((frechet_distance(&flat, &zero).unwrap() - 4.0).abs() < 1e-12);
    }

    #[test]
    fn matrices_without_a_root_are_errors() {
        // The variances are positive, and the eigenvalues are 3 and -1.
        let broken = Statistics::given(vec![0.0; 2], &[1.0, 2.0, 2.0, 1.0]).unwrap();
        let good = diagonal([0.0, 0.0], [4.0, 1.0]);
        assert_eq!(frechet_distance(&good, &broken).unwrap_err(), MetricError::NoRoot);
        assert_eq!(frechet_distance(&broken, &good).unwrap_err(), MetricError::NoRoot);
    }

    #[test]
    fn an_offset_helps_where_rounding_makes_a_small_covariance_negative() {
        let small = Statistics::given(vec![0.0; 2], &[1e-7, 1.5e-7, 1.5e-7, 1e-7]);
        // The eigenvalues are 2.5e-7 and -0.5e-7, and 1e-6 more after the offset.
        let distance = frechet_distance(&small.unwrap(), &diagonal([0.0, 0.0], [1.0, 1.0])).unwrap();
        let root = ((1.25e-6_f64).sqrt() + (0.95e-6_f64).sqrt()) * (1.0 + 1e-6_f64).sqrt();
        assert!((distance - (2.0 + 2e-7 - 2.0 * root)).abs() < 1e-12, "{distance}");
    }

    #[test]
    fn damaged_statistics_are_errors() {
        let given = |covariance: &[f64]| Statistics::given(vec![0.0; 2], covariance).unwrap_err();
        assert!(matches!(given(&[1.0; 3]), MetricError::PartSize { given: 3, needed: 4, width: 2, .. }));
        assert!(matches!(given(&[1.0, 0.0, f64::NAN, 1.0]), MetricError::PartNotFinite { index: 2, .. }));
        assert!(matches!(given(&[1.0, 0.0, 0.5, 1.0]), MetricError::NotSymmetric { row: 1, column: 0, .. }));
        assert!(matches!(given(&[1.0, 0.0, 0.0, -1.0]), MetricError::Negative { index: 1, .. }));
        let mean = Statistics::given(vec![f64::NAN], &[1.0]);
        assert!(matches!(mean, Err(MetricError::PartNotFinite { part: "the mean", index: 0 })));
        let wide = Statistics::given(vec![0.0], &[1.0]).unwrap();
        let widths = frechet_distance(&wide, &diagonal([0.0; 2], [1.0; 2]));
        assert_eq!(widths.unwrap_err(), MetricError::Width { left: 1, right: 2 });
    }

    #[test]
    fn one_image_is_too_few() {
        let one = Features::new(&[1.0, 2.0], 2).unwrap();
        assert!(matches!(Statistics::of(&one), Err(MetricError::TooFew { needed: 2, given: 1, .. })));
    }
}
