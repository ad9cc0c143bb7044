//! Improved precision and recall: the fraction of one set of images that is inside the manifold of another set.
//!
//! The manifold of a set is the union of balls around its images. The radius of a ball is the distance of the image to
//! its k-th nearest neighbor in the set.

use rayon::prelude::*;

use super::{Features, MetricError};

/// The number of rows per task. A task reads each row of the other table once for all of its rows.
const BLOCK: usize = 16;

/// Improved precision and recall.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecall {
    /// The fraction of generated images inside the manifold of the reference images.
    pub precision: f64,
    /// The fraction of reference images inside the manifold of the generated images.
    pub recall: f64,
}

/// Returns precision and recall for balls that reach to the `k`-th nearest neighbor. The paper uses 3.
///
/// # Errors
/// [`MetricError::Width`] if the widths differ. [`MetricError::TooFew`] if an image has fewer than `k` neighbors.
pub fn precision_recall(
    reference: &Features<'_>,
    generated: &Features<'_>,
    k: usize,
) -> Result<PrecisionRecall, MetricError> {
    reference.check_width(generated)?;
    reference.check_num(k + 1, "precision")?;
    generated.check_num(k + 1, "recall")?;
    let fraction = |inside: Vec<bool>| inside.iter().filter(|&&inside| inside).count() as f64 / inside.len() as f64;
    Ok(PrecisionRecall {
        precision: fraction(is_inside(generated, reference, &radii(reference, k))),
        recall: fraction(is_inside(reference, generated, &radii(generated, k))),
    })
}

/// Returns for each row of `generated` the index of the nearest row of `reference`. If several are equally near,
/// returns the first of them.
///
/// # Errors
/// [`MetricError::Width`] if the widths differ. [`MetricError::TooFew`] if `reference` is empty.
pub fn nearest(generated: &Features<'_>, reference: &Features<'_>) -> Result<Vec<usize>, MetricError> {
    generated.check_width(reference)?;
    reference.check_num(1, "the nearest neighbour")?;
    Ok(fold_distances(
        generated,
        reference,
        || (0, f64::INFINITY),
        |best, j, distance| {
            if distance < best.1 {
                *best = (j, distance);
            }
        },
    )
    .into_iter()
    .map(|(index, _)| index)
    .collect())
}

/// Returns the squared distance of each row to its k-th nearest neighbor in the same table, not counting itself.
fn radii(table: &Features<'_>, k: usize) -> Vec<f64> {
    // The distance of a row to itself is 0, so the k-th neighbor has the largest of the k + 1 smallest distances.
    fold_distances(
        table,
        table,
        || vec![f64::INFINITY; k + 1],
        |smallest, _, distance| {
            if distance < smallest[k] {
                let position = smallest.partition_point(|&other| other <= distance);
                smallest.insert(position, distance);
                smallest.pop();
            }
        },
    )
    .into_iter()
    .map(|smallest| smallest[k])
    .collect()
}

/// Returns for each row of `table` whether it is inside a ball around a row of `centers`. `radii` are squared.
fn is_inside(table: &Features<'_>, centers: &Features<'_>, radii: &[f64]) -> Vec<bool> {
    fold_distances(table, centers, || false, |inside, j, distance| *inside |= distance <= radii[j])
}

/// For each row of `left`, folds its squared distances to all rows of `right`, in the order of `right`.
fn fold_distances<T: Send>(
    left: &Features<'_>,
    right: &Features<'_>,
    start: impl Fn() -> T + Sync,
    fold: impl Fn(&mut T, usize, f64) + Sync,
) -> Vec<T> {
    let blocks = left.num().div_ceil(BLOCK);
    (0..blocks)
        .into_par_iter()
        .flat_map_iter(|block| {
            let rows = block * BLOCK..left.num().min((block + 1) * BLOCK);
            let mut states: Vec<T> = rows.clone().map(|_| start()).collect();
            for j in 0..right.num() {
                for (state, i) in states.iter_mut().zip(rows.clone()) {
                    fold(state, j, squared_distance(left.row(i), right.row(j)));
                }
            }
            states
        })
        .collect()
}

/// Returns the squared distance of two rows, computed from their differences in float64.
///
/// The formula `|a|^2 + |b|^2 - 2 a.b` is faster, but loses small distances to cancellation, and with them the order of
/// neighbors. With differences, the distance is the same to the bit in both directions, and equal rows have distance 0.
fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let (a_chunks, a_rest) = a.as_chunks::<8>();
    let (b_chunks, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..8 {
            let difference = f64::from(a[lane]) - f64::from(b[lane]);
            sums[lane] += difference * difference;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(values: &[f32]) -> Features<'_> {
        Features::new(values, 1).unwrap()
    }

    #[test]
    fn small_distances_of_large_values_are_exact() {
        let (a, b): (Vec<f32>, Vec<f32>) = (vec![4096.0; 19], vec![4096.001; 19]);
        let step = f64::from(4096.001_f32) - 4096.0;
        assert!((squared_distance(&a, &b) / (19.0 * step * step) - 1.0).abs() < 1e-14);
        assert_eq!(squared_distance(&a, &a), 0.0);
    }

    #[test]
    fn radii_are_distances_to_the_kth_other_row() {
        assert_eq!(radii(&line(&[0.0, 1.0, 3.0, 7.0]), 2), [9.0, 4.0, 9.0, 36.0]);
        assert_eq!(radii(&line(&[5.0, 5.0, 6.0]), 1), [0.0, 0.0, 1.0], "a copy is a neighbor");
    }

    #[test]
    fn the_boundary_of_a_ball_is_inside() {
        let reference = [0.0, 1.0, 10.0];
        let generated = [-1.0, -1.5, 10.0, 100.0];
        let both = precision_recall(&line(&reference), &line(&generated), 1).unwrap();
        // Reference radii 1, 1, 9: -1 is on a boundary, 10 is a center. Generated radii 0.5, 0.5, 11, 90.
        assert_eq!(both.precision, 0.5);
        assert_eq!(both.recall, 1.0);
    }

    #[test]
    fn of_equally_near_rows_the_first_is_returned() {
        let generated: Vec<f32> = (0..40).map(|i| i as f32).collect();
        let indices = nearest(&line(&generated), &line(&[30.0, 10.0, 10.0])).unwrap();
        assert_eq!(indices[..20], [1; 20]);
        assert_eq!(indices[20..], [0; 20], "20 is as far from 30 as from 10");
    }

    #[test]
    fn too_few_neighbors_are_errors() {
        let few = [0.0; 3];
        let result = precision_recall(&line(&few), &line(&few), 3);
        assert!(matches!(result, Err(MetricError::TooFew { needed: 4, given: 3, .. })));
    }
}
