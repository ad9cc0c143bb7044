//! Sums over images that give a mean and a covariance. Sums of parts merge, so that parts can be computed on many ranks
//! and after restarts.

use faer::Mat;

use super::error::check_finite;
use super::products::add_gram;
use super::tiles::ranges;
use super::{Features, MetricError, Statistics};

/// The number of rows that are converted to float64 at a time.
const BLOCK: usize = 1024;

/// The number of images, the sum of their features, and the sum of the outer products of their features, in float64.
///
/// The covariance is `(sum of x x' - n m m') / (n - 1)` with `m = sum of x / n`. The subtraction loses digits: the
/// error of an entry is about 1e-16 of the mean square of the feature, not of its variance. For pool features, whose
/// mean square is about twice the variance, this changes the FID by less than 1e-10 of itself, in whichever parts the
/// images are added.
#[derive(Debug, Clone, PartialEq)]
pub struct Sums {
    num: u64,
    sum: Vec<f64>,
    /// The lower triangle, row by row.
    outer: Vec<f64>,
}

impl Sums {
    /// Returns the sums of no image. `width` is the number of features of an image.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self { num: 0, sum: vec![0.0; width], outer: vec![0.0; triangle(width)] }
    }

    /// Returns the sums with the given parts, for example from a file. The width is the length of `sum`; `outer` is the
    /// lower triangle of the sum of outer products, row by row: (0, 0), (1, 0), (1, 1), (2, 0) and so on.
    ///
    /// # Errors
    /// [`MetricError::PartSize`] if `outer` has another length. [`MetricError::PartNotFinite`] if a value is NaN or
    /// infinite. [`MetricError::Negative`] if a sum of squares is negative.
    pub fn from_parts(num: u64, sum: Vec<f64>, outer: Vec<f64>) -> Result<Self, MetricError> {
        let width = sum.len();
        let needed =
            width.checked_add(1).and_then(|next| width.checked_mul(next)).map_or(usize::MAX, |twice| twice / 2);
        if outer.len() != needed {
            return Err(MetricError::PartSize { part: "the sum of outer products", given: outer.len(), needed, width });
        }
        check_finite("the sum", &sum)?;
        check_finite("the sum of outer products", &outer)?;
        for index in 0..width {
            let value = outer[triangle(index) + index];
            if value < 0.0 {
                return Err(MetricError::Negative { part: "the sum of outer products", index, value });
            }
        }
        Ok(Self { num, sum, outer })
    }

    /// Returns the number of images.
    #[must_use]
    pub fn num(&self) -> u64 {
        self.num
    }

    /// Returns the number of features of an image.
    #[must_use]
    pub fn width(&self) -> usize {
        self.sum.len()
    }

    /// Returns the sum of the features, `[width]`.
    #[must_use]
    pub fn sum(&self) -> &[f64] {
        &self.sum
    }

    /// Returns the lower triangle of the sum of outer products, row by row, `[width (width + 1) / 2]`.
    #[must_use]
    pub fn outer(&self) -> &[f64] {
        &self.outer
    }

    /// Adds images.
    ///
    /// # Errors
    /// [`MetricError::Width`] if the images have another number of features.
    pub fn add(&mut self, features: &Features<'_>) -> Result<(), MetricError> {
        self.add_rows(features, features.num(), |index| index)
    }

    /// Adds `num` images: the i-th is the row `row(i)` of `features`.
    pub(super) fn add_rows(
        &mut self,
        features: &Features<'_>,
        num: usize,
        row: impl Fn(usize) -> usize,
    ) -> Result<(), MetricError> {
        let width = self.width();
        if features.width() != width {
            return Err(MetricError::Width { left: width, right: features.width() });
        }
        let mut gram = Mat::<f64>::zeros(width, width);
        for block in ranges(num, BLOCK) {
            let rows = Mat::from_fn(block.len(), width, |i, j| f64::from(features.row(row(block.start + i))[j]));
            add_gram(gram.as_mut(), rows.as_ref());
            for (sum, column) in self.sum.iter_mut().zip(rows.col_iter()) {
                *sum += column.iter().sum::<f64>();
            }
        }
        for i in 0..width {
            for (j, sum) in self.outer[triangle(i)..triangle(i + 1)].iter_mut().enumerate() {
                *sum += gram[(i, j)];
            }
        }
        self.num += num as u64;
        Ok(())
    }

    /// Adds the images of other sums.
    ///
    /// # Errors
    /// [`MetricError::Width`] if they have another number of features.
    pub fn merge(&mut self, other: &Self) -> Result<(), MetricError> {
        if self.width() != other.width() {
            return Err(MetricError::Width { left: self.width(), right: other.width() });
        }
        self.add_sums(other);
        Ok(())
    }

    /// Adds the images of sums of the same width.
    pub(super) fn add_sums(&mut self, other: &Self) {
        self.num = self.num.saturating_add(other.num);
        add(&mut self.sum, &other.sum, 1.0);
        add(&mut self.outer, &other.outer, 1.0);
    }

    /// Takes out the images of a part that was merged before.
    pub(super) fn remove(&mut self, part: &Self) {
        self.num -= part.num;
        add(&mut self.sum, &part.sum, -1.0);
        add(&mut self.outer, &part.outer, -1.0);
    }

    /// Returns the mean and the covariance, with the divisor n - 1.
    ///
    /// # Errors
    /// [`MetricError::TooFew`] if there are fewer than two images.
    pub fn statistics(&self) -> Result<Statistics, MetricError> {
        if self.num < 2 {
            let given = usize::from(self.num == 1);
            return Err(MetricError::TooFew { metric: "the Frechet distance", needed: 2, given });
        }
        let num = self.num as f64;
        let mean: Vec<f64> = self.sum.iter().map(|sum| sum / num).collect();
        let covariance = Mat::from_fn(self.width(), self.width(), |i, j| {
            let (i, j) = (i.max(j), i.min(j));
            (self.outer[triangle(i) + j] - self.sum[i] * mean[j]) / (num - 1.0)
        });
        Ok(Statistics::computed(mean, covariance, self.num))
    }
}

/// Returns the number of entries of the lower triangle above the given row.
fn triangle(row: usize) -> usize {
    row * (row + 1) / 2
}

/// Adds `factor * values`.
fn add(sums: &mut [f64], values: &[f64], factor: f64) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::frechet_distance;
    use crate::tests::pool_like;

    #[test]
    fn sums_of_parts_merge_to_the_sums_of_all() {
        let values: Vec<f32> = (0..21).map(|i| (i * i % 17) as f32).collect();
        let all = Features::new(&values, 3).unwrap();
        let mut whole = Sums::new(3);
        whole.add(&all).unwrap();
        let mut merged = Sums::new(3);
        for part in [&values[..6], &values[6..6], &values[6..]] {
            let mut sums = Sums::new(3);
            sums.add(&Features::new(part, 3).unwrap()).unwrap();
            merged.merge(&sums).unwrap();
        }
        // All numbers are small integers, so the sums are exact.
        assert_eq!(merged, whole);
        let again = Sums::from_parts(whole.num(), whole.sum().to_vec(), whole.outer().to_vec()).unwrap();
        assert_eq!(again, whole);
        let mut part = Sums::new(3);
        part.add(&Features::new(&values[6..], 3).unwrap()).unwrap();
        merged.remove(&part);
        assert_eq!((merged.num(), merged.outer()[0]), (2, 81.0));

        let (from_sums, direct) = (whole.statistics().unwrap(), Statistics::of(&all).unwrap());
        for i in 0..3 {
            for j in 0..3 {
                let (left, right) = (from_sums.covariance_at(i, j), direct.covariance_at(i, j));
                assert!((left - right).abs() < 1e-13 * direct.covariance_at(0, 0));
            }
        }
    }

    #[test]
    fn any_split_gives_the_same_distance() {
        // 50,000 images of the scale of pool features: not negative, with a mean as large as the deviation, and
        // variances that differ by a factor of 10,000.
        let width = 48;
        let (values, other) = (pool_like(50_000, width, 1), pool_like(3000, width, 2));
        let reference = Statistics::of(&Features::new(&other, width).unwrap()).unwrap();
        let expected =
            frechet_distance(&Statistics::of(&Features::new(&values, width).unwrap()).unwrap(), &reference).unwrap();
        for pieces in [1, 7, 1000] {
            let mut parts: Vec<Sums> = values
                .chunks((50_000 / pieces + 1) * width)
                .map(|chunk| {
                    let mut sums = Sums::new(width);
                    sums.add(&Features::new(chunk, width).unwrap()).unwrap();
                    sums
                })
                .collect();
            parts.reverse();
            let mut merged = Sums::new(width);
            parts.iter().for_each(|part| merged.merge(part).unwrap());
            let distance = frechet_distance(&merged.statistics().unwrap(), &reference).unwrap();
            assert!((distance / expected - 1.0).abs() < 1e-9, "{pieces}: {distance} {expected}");
        }
    }

    #[test]
    fn sums_of_different_widths_and_damaged_parts_are_errors() {
        let mut sums = Sums::new(2);
        assert_eq!(sums.merge(&Sums::new(3)).unwrap_err(), MetricError::Width { left: 2, right: 3 });
        let narrow = Features::new(&[1.0], 1).unwrap();
        assert_eq!(sums.add(&narrow).unwrap_err(), MetricError::Width { left: 2, right: 1 });
        assert!(matches!(sums.statistics(), Err(MetricError::TooFew { given: 0, .. })));
        let parts = |outer: &[f64]| Sums::from_parts(2, vec![1.0, 2.0], outer.to_vec()).unwrap_err();
        assert!(matches!(parts(&[1.0; 4]), MetricError::PartSize { given: 4, needed: 3, width: 2, .. }));
        assert!(matches!(parts(&[1.0, f64::INFINITY, 1.0]), MetricError::PartNotFinite { index: 1, .. }));
        assert!(matches!(parts(&[1.0, 0.0, -1.0]), MetricError::Negative { index: 1, .. }));
    }
}
