//! The kernel inception distance: the squared maximum mean discrepancy with a cubic kernel.

use super::{Features, MetricError};

/// The number of rows of the kernel matrix that are computed at a time.
const BLOCK: usize = 1024;

/// Returns the unbiased estimate over all images with the kernel `(x . y / width + 1)^3`. It may be negative.
///
/// # Errors
/// [`MetricError::Width`] if the widths differ. [`MetricError::TooFew`] if a table has fewer than two images.
pub fn kernel_inception_distance(left: &Features<'_>, right: &Features<'_>) -> Result<f64, MetricError> {
    left.check_width(right)?;
    left.check_num(2, "the kernel inception distance")?;
    right.check_num(2, "the kernel inception distance")?;
    let within = |table: &Features<'_>| {
        let num = table.num() as f64;
        kernel_sum(table, table, true) / (num * (num - 1.0))
    };
    let across = kernel_sum(left, right, false) / (left.num() as f64 * right.num() as f64);
    Ok(within(left) + within(right) - 2.0 * across)
}

/// Returns the sum of the kernel over all pairs of rows. `skip_diagonal` leaves out the pairs of equal indices.
fn kernel_sum(left: &Features<'_>, right: &Features<'_>, skip_diagonal: bool) -> f64 {
    let right_rows = right.matrix(0..right.num());
    let width = left.width() as f64;
    let mut sum = 0.0;
    for start in (0..left.num()).step_by(BLOCK) {
        let block = left.matrix(start..left.num().min(start + BLOCK)) * right_rows.transpose();
        for j in 0..block.ncols() {
            for (i, dot) in block.col(j).iter().enumerate() {
                if !(skip_diagonal && start + i == j) {
                    sum += (dot / width + 1.0).powi(3);
                }
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_small_example_matches_the_formula() {
        // Within left: (0 * 1 + 1)^3 = 1. Within right: (1 * 2 + 1)^3 = 27. Across: (1 + 1 + 8 + 27) / 4.
        let left = Features::new(&[0.0, 1.0], 1).unwrap();
        let right = Features::new(&[1.0, 2.0], 1).unwrap();
        assert!((kernel_inception_distance(&left, &right).unwrap() - 9.5).abs() < 1e-12);
    }

    #[test]
    fn only_the_diagonal_is_left_out_across_blocks() {
        let values = vec![1.0; BLOCK + 3];
        let table = Features::new(&values, 1).unwrap();
        let num = values.len() as f64;
        assert_eq!(kernel_sum(&table, &table, true), 8.0 * num * (num - 1.0));
    }

    #[test]
    fn different_widths_are_errors() {
        let (narrow, wide) = ([0.0; 4], [0.0; 4]);
        let result = kernel_inception_distance(&Features::new(&narrow, 1).unwrap(), &Features::new(&wide, 2).unwrap());
        assert_eq!(result.unwrap_err(), MetricError::Width { left: 1, right: 2 });
    }
}
