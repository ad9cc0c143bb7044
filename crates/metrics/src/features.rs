//! Features of images.

use super::MetricError;

/// The features of images: `[num, width]`, row-major, all finite.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> Features<'a> {
    /// Returns a table of `values.len() / width` rows.
    ///
    /// # Errors
    /// [`MetricError::Shape`] if the values do not form complete rows. [`MetricError::NotFinite`] if a value is NaN or
    /// infinite.
    pub fn new(values: &'a [f32], width: usize) -> Result<Self, MetricError> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(MetricError::Shape { values: values.len(), width });
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(MetricError::NotFinite { row: index / width, column: index % width }),
            None => Ok(Self { values, width }),
        }
    }

    /// Returns the number of images.
    pub fn num(&self) -> usize {
        self.values.len() / self.width
    }

    /// Returns the number of features of an image.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns all values, row by row.
    pub(super) fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Returns the features of one image.
    pub(super) fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.width..][..self.width]
    }

    /// Checks that both tables have the same width.
    pub(super) fn check_width(&self, other: &Self) -> Result<(), MetricError> {
        if self.width == other.width {
            return Ok(());
        }
        Err(MetricError::Width { left: self.width, right: other.width })
    }

    /// Checks that there are at least `needed` images.
    pub(super) fn check_num(&self, needed: usize, metric: &'static str) -> Result<(), MetricError> {
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
    fn values_that_form_no_table_are_errors() {
        assert_eq!(Features::new(&[0.0; 5], 2).unwrap_err(), MetricError::Shape { values: 5, width: 2 });
        assert_eq!(Features::new(&[], 0).unwrap_err(), MetricError::Shape { values: 0, width: 0 });
        let with_nan = [0.0, 1.0, 2.0, f32::NAN];
        assert_eq!(Features::new(&with_nan, 2).unwrap_err(), MetricError::NotFinite { row: 1, column: 1 });
    }

    #[test]
    fn rows_keep_their_order() {
        let table = Features::new(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 2).unwrap();
        assert_eq!((table.num(), table.row(1)), (3, [2.0, 3.0].as_slice()));
    }
}
