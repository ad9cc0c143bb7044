//! A table of features, and what can be wrong with one.

use faer::Mat;

/// Why a metric cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// The numbers do not form a table.
    #[error("{values} values are not a whole number of rows of {width}")]
    Shape {
        /// Values given.
        values: usize,
        /// Values a row should have.
        width: usize,
    },
    /// A feature is NaN or infinite.
    #[error("value {column} of row {row} is not finite: look at that image and at the network's weights")]
    NotFinite {
        /// The row, from 0.
        row: usize,
        /// The place in the row, from 0.
        column: usize,
    },
    /// Two tables do not fit each other.
    #[error("features of width {left} cannot be compared with features of width {right}")]
    Width {
        /// Width of the first.
        left: usize,
        /// Width of the second.
        right: usize,
    },
    /// Too few images.
    #[error("{metric} needs at least {needed} images, not {given}")]
    TooFew {
        /// What was asked for.
        metric: &'static str,
        /// The least number of images.
        needed: usize,
        /// The number given.
        given: usize,
    },
    /// A covariance has no square root that can be computed.
    #[error("the covariances have no square root, not even with 1e-6 on their diagonals")]
    NoRoot,
}

/// The features of some images: `[num, width]`, row-major, all finite.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> Features<'a> {
    /// A table of `values.len() / width` rows.
    ///
    /// # Errors
    /// [`MetricError::Shape`] for a torn row, [`MetricError::NotFinite`] for a value that no metric has a meaning for.
    pub fn new(values: &'a [f32], width: usize) -> Result<Self, MetricError> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(MetricError::Shape { values: values.len(), width });
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(place) => Err(MetricError::NotFinite { row: place / width, column: place % width }),
            None => Ok(Self { values, width }),
        }
    }

    /// Number of images.
    pub fn num(&self) -> usize {
        self.values.len() / self.width
    }

    /// Features of an image.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All values, row by row.
    pub(super) fn values(&self) -> &'a [f32] {
        self.values
    }

    /// The features of one image.
    pub(super) fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.width..][..self.width]
    }

    /// The rows of a range as a float64 matrix.
    pub(super) fn matrix(&self, rows: std::ops::Range<usize>) -> Mat<f64> {
        Mat::from_fn(rows.len(), self.width, |i, j| f64::from(self.row(rows.start + i)[j]))
    }

    /// Refuses tables of different widths.
    pub(super) fn fits(&self, other: &Self) -> Result<(), MetricError> {
        if self.width == other.width {
            return Ok(());
        }
        Err(MetricError::Width { left: self.width, right: other.width })
    }

    /// Refuses fewer than `needed` images.
    pub(super) fn at_least(&self, needed: usize, metric: &'static str) -> Result<(), MetricError> {
        if self.num() >= needed {
            return Ok(());
        }
        Err(MetricError::TooFew { metric, needed, given: self.num() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_no_table_is_refused() {
        assert_eq!(Features::new(&[0.0; 5], 2).unwrap_err(), MetricError::Shape { values: 5, width: 2 });
        assert_eq!(Features::new(&[], 0).unwrap_err(), MetricError::Shape { values: 0, width: 0 });
        let torn = [0.0, 1.0, 2.0, f32::NAN];
        assert_eq!(Features::new(&torn, 2).unwrap_err(), MetricError::NotFinite { row: 1, column: 1 });
    }

    #[test]
    fn rows_keep_their_order() {
        let table = Features::new(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 2).unwrap();
        assert_eq!((table.num(), table.row(1)), (3, [2.0, 3.0].as_slice()));
        assert_eq!(table.matrix(1..3)[(1, 0)], 4.0);
    }
}
