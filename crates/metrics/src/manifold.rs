//! Improved precision and recall: how much of one set of images lies within the other's manifold, which is the
//! union of balls around its images that reach to their k-th nearest neighbours.

use rayon::prelude::*;

use super::{Features, MetricError};

/// Rows whose distances one task computes, so that a row of the other table is read once for all of them.
const BLOCK: usize = 16;

/// Which part of one set lies within the other's manifold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecall {
    /// The part of the generated images that lies within the manifold of the reference.
    pub precision: f64,
    /// The part of the reference images that lies within the manifold of the generated.
    pub recall: f64,
}

/// Precision and recall with balls that reach to the `k`-th nearest neighbour (the paper: 3).
///
/// # Errors
/// [`MetricError::Width`] where the two differ in width, [`MetricError::TooFew`] where an image has fewer than `k`
/// neighbours.
pub fn precision_recall(
    reference: &Features<'_>,
    generated: &Features<'_>,
    k: usize,
) -> Result<PrecisionRecall, MetricError> {
    reference.fits(generated)?;
    reference.at_least(k + 1, "precision")?;
    generated.at_least(k + 1, "recall")?;
    let part = |inside: Vec<bool>| inside.iter().filter(|&&inside| inside).count() as f64 / inside.len() as f64;
    Ok(PrecisionRecall {
        precision: part(inside(generated, reference, &radii(reference, k))),
        recall: part(inside(reference, generated, &radii(generated, k))),
    })
}

/// For each row of `generated` the row of `reference` that is nearest, the first of equals.
///
/// # Errors
/// [`MetricError::Width`] where the two differ in width, [`MetricError::TooFew`] for an empty reference.
pub fn nearest(generated: &Features<'_>, reference: &Features<'_>) -> Result<Vec<usize>, MetricError> {
    generated.fits(reference)?;
    reference.at_least(1, "the nearest neighbour")?;
    Ok(per_row(
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
    .map(|(place, _)| place)
    .collect())
}

/// The squared distance of each row to its k-th nearest neighbour in the same table, itself not counted.
fn radii(table: &Features<'_>, k: usize) -> Vec<f64> {
    // A row is at distance zero from itself, so the k-th neighbour is the last of the k + 1 smallest.
    per_row(
        table,
        table,
        || vec![f64::INFINITY; k + 1],
        |smallest, _, distance| {
            if distance < smallest[k] {
                let place = smallest.partition_point(|&other| other <= distance);
                smallest.insert(place, distance);
                smallest.pop();
            }
        },
    )
    .into_iter()
    .map(|smallest| smallest[k])
    .collect()
}

/// Whether each row of `table` lies in a ball around a row of `centers`.
fn inside(table: &Features<'_>, centers: &Features<'_>, radii: &[f64]) -> Vec<bool> {
    per_row(table, centers, || false, |inside, j, distance| *inside |= distance <= radii[j])
}

/// Folds the squared distances of each row of `left` to every row of `right`, in the order of `right`.
fn per_row<T: Send>(
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

/// The squared distance by differences in float64.
///
/// The quicker `|a|^2 + |b|^2 - 2 a.b` loses the small distances to cancellation, and with them the order of
/// neighbours; by differences a pair has the same bits from both sides, and equal rows are at distance zero.
fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let (a_eights, a_rest) = a.as_chunks::<8>();
    let (b_eights, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a_eights.iter().zip(b_eights) {
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
    fn distances_are_exact_where_their_squares_are_large() {
        let (a, b): (Vec<f32>, Vec<f32>) = (vec![4096.0; 19], vec![4096.001; 19]);
        let step = f64::from(4096.001_f32) - 4096.0;
        assert!((squared_distance(&a, &b) / (19.0 * step * step) - 1.0).abs() < 1e-14);
        assert_eq!(squared_distance(&a, &a), 0.0);
    }

    #[test]
    fn radii_reach_to_the_kth_other_row() {
        assert_eq!(radii(&line(&[0.0, 1.0, 3.0, 7.0]), 2), [9.0, 4.0, 9.0, 36.0]);
        assert_eq!(radii(&line(&[5.0, 5.0, 6.0]), 1), [0.0, 0.0, 1.0], "a copy is a neighbour");
    }

    #[test]
    fn the_edge_of_a_ball_is_inside() {
        let reference = [0.0, 1.0, 10.0];
        let generated = [-1.0, -1.5, 10.0, 100.0];
        let both = precision_recall(&line(&reference), &line(&generated), 1).unwrap();
        // Reference radii 1, 1, 9: -1 is on an edge, 10 on a center. Generated radii 0.5, 0.5, 11, 90.
        assert_eq!(both.precision, 0.5);
        assert_eq!(both.recall, 1.0);
    }

    #[test]
    fn the_first_of_equals_is_nearest() {
        let generated: Vec<f32> = (0..40).map(|i| i as f32).collect();
        let places = nearest(&line(&generated), &line(&[30.0, 10.0, 10.0])).unwrap();
        assert_eq!(places[..20], [1; 20]);
        assert_eq!(places[20..], [0; 20], "20 is as far from 30 as from 10");
    }

    #[test]
    fn too_few_neighbours_are_refused() {
        let few = [0.0; 3];
        let result = precision_recall(&line(&few), &line(&few), 3);
        assert!(matches!(result, Err(MetricError::TooFew { needed: 4, given: 3, .. })));
    }
}
