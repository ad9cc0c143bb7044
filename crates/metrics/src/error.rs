//! The errors of metrics.

/// An error of computing a metric.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MetricError {
    /// The values do not form complete rows.
    #[error("{values} values are not a whole number of rows of {width}")]
    Shape {
        /// The number of values given.
        values: usize,
        /// The number of values in a row.
        width: usize,
    },
    /// A feature is NaN or infinite.
    #[error("value {column} of row {row} is not finite: look at that image and at the network's weights")]
    NotFinite {
        /// The row, from 0.
        row: usize,
        /// The position in the row, from 0.
        column: usize,
    },
    /// Two tables have different widths.
    #[error("features of width {left} cannot be compared with features of width {right}")]
    Width {
        /// The width of the first table.
        left: usize,
        /// The width of the second table.
        right: usize,
    },
    /// There are too few images.
    #[error("{metric} needs at least {needed} images, not {given}")]
    TooFew {
        /// The name of the metric.
        metric: &'static str,
        /// The required number of images.
        needed: usize,
        /// The number of images given.
        given: usize,
    },
    /// A number of neighbors, pieces, subsets or rows of a block that must be positive is 0.
    #[error("{what} must be at least 1")]
    Zero {
        /// What the number counts.
        what: &'static str,
    },
    /// Given statistics or sums have parts of sizes that do not belong together.
    #[error("{part} has {given} values where a mean of {width} features needs {needed}")]
    PartSize {
        /// The name of the part.
        part: &'static str,
        /// The number of values given.
        given: usize,
        /// The number of values that belongs to the width.
        needed: usize,
        /// The width of the mean.
        width: usize,
    },
    /// Given statistics or sums hold a value that is NaN or infinite.
    #[error("value {index} of {part} is not finite: the statistics are damaged or come from a broken network")]
    PartNotFinite {
        /// The name of the part.
        part: &'static str,
        /// The position of the value, from 0, row by row.
        index: usize,
    },
    /// A given covariance is not symmetric.
    #[error("the covariance is not symmetric: ({row}, {column}) is {value}, and ({column}, {row}) is {mirrored}")]
    NotSymmetric {
        /// The row, from 0.
        row: usize,
        /// The column, from 0.
        column: usize,
        /// The value there.
        value: f64,
        /// The value in row `column` and column `row`.
        mirrored: f64,
    },
    /// A given variance, or a sum of squares, is negative.
    #[error("the diagonal of {part} is negative ({value}) at {index}")]
    Negative {
        /// The name of the part.
        part: &'static str,
        /// The position on the diagonal, from 0.
        index: usize,
        /// The value there.
        value: f64,
    },
    /// An index of a subset or permutation names no image.
    #[error("index {index} of {what} is outside the {num} images")]
    Index {
        /// What the index belongs to.
        what: &'static str,
        /// The index given.
        index: usize,
        /// The number of images.
        num: usize,
    },
    /// A permutation does not name each image once.
    #[error("the permutation of {num} images has {given} entries or names an image twice")]
    Permutation {
        /// The number of entries given.
        given: usize,
        /// The number of images.
        num: usize,
    },
    /// The square root of the covariances cannot be computed.
    #[error(
        "the covariances have no square root, not even with 1e-6 on their diagonals: one of them is no covariance \
         (negative variance in some direction)"
    )]
    NoRoot,
}

/// Checks that all values of a part are finite.
pub(crate) fn check_finite(part: &'static str, values: &[f64]) -> Result<(), MetricError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(MetricError::PartNotFinite { part, index }),
        None => Ok(()),
    }
}
