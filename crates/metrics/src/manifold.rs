//! Whether images of one set are inside the manifold of another set.
//!
//! The manifold of a set is the union of balls around its images. The radius of a ball is the distance of the image to
//! its k-th nearest neighbor in the set. All distances are exact to float64.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::distances::{Balls, Within, nearest_rows_within, pairs_within};
use super::{Features, MetricError};

/// Improved precision and recall.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecall {
    /// The fraction of generated images inside the manifold of the reference images.
    pub precision: f64,
    /// The fraction of reference images inside the manifold of the generated images.
    pub recall: f64,
}

/// Density and coverage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DensityCoverage {
    /// The number of balls of reference images that contain a generated image, divided by k, as a mean over the
    /// generated images. It can exceed 1.
    pub density: f64,
    /// The fraction of reference images whose ball contains a generated image.
    pub coverage: f64,
}

/// Returns the squared distance of each image to its `k`-th nearest neighbor in the same set, not counting itself.
///
/// # Errors
/// [`MetricError::Zero`] if `k` is 0. [`MetricError::TooFew`] if there are not more than `k` images.
pub fn radii(features: &Features<'_>, k: usize) -> Result<Vec<f64>, MetricError> {
    check_neighbors(features, k, "the radius of a manifold")?;
    // The distance of a row to itself is 0, so the k-th neighbor has the largest of the k + 1 smallest distances.
    Ok(nearest_rows_within(features, k + 1).into_iter().map(|nearest| nearest[k].squared_distance).collect())
}

/// Returns precision and recall (Kynkaanniemi et al., "Improved precision and recall metric for assessing generative
/// models", 2019) for balls that reach to the `k`-th nearest neighbor. The paper of ADM uses 3.
///
/// # Errors [`MetricError::Width`] if the widths differ. [`MetricError::Zero`] if `k` is 0. [`MetricError::TooFew`] if
/// an image has fewer than `k` neighbors.
pub fn precision_recall(
    reference: &Features<'_>,
    generated: &Features<'_>,
    k: usize,
) -> Result<PrecisionRecall, MetricError> {
    reference.check_width(generated)?;
    check_neighbors(reference, k, "precision")?;
    check_neighbors(generated, k, "recall")?;
    let [reference_radii, generated_radii] = [radii(reference, k)?, radii(generated, k)?];
    // Each ball takes rows of the other table, so the flags belong to the table without the ball.
    let (generated_inside, reference_inside) = (Flags::columns(generated.num()), Flags::rows(reference.num()));
    pairs_within(
        reference,
        generated,
        Some(&Balls { radii: &reference_radii, within: &generated_inside }),
        Some(&Balls { radii: &generated_radii, within: &reference_inside }),
    );
    Ok(PrecisionRecall { precision: generated_inside.fraction(), recall: reference_inside.fraction() })
}

/// Returns density and coverage (Naeem et al., "Reliable fidelity and diversity metrics for generative models", 2020)
/// for balls that reach to the `k`-th nearest neighbor. That paper uses 5.
///
/// Density is the mean over generated images of (number of reference balls that contain the image) / k. Coverage is the
/// fraction of reference balls that contain a generated image. A ball contains its boundary.
///
/// # Errors
/// As for [`precision_recall`]; one generated image suffices.
pub fn density_coverage(
    reference: &Features<'_>,
    generated: &Features<'_>,
    k: usize,
) -> Result<DensityCoverage, MetricError> {
    reference.check_width(generated)?;
    check_neighbors(reference, k, "density")?;
    generated.check_num(1, "density")?;
    let radii = radii(reference, k)?;
    let counts = Counts { pairs: AtomicU64::new(0), covered: Flags::rows(reference.num()) };
    pairs_within(reference, generated, Some(&Balls { radii: &radii, within: &counts }), None);
    Ok(DensityCoverage {
        density: counts.pairs.into_inner() as f64 / (k as f64 * generated.num() as f64),
        coverage: counts.covered.fraction(),
    })
}

/// Checks that each image has `k` neighbors.
pub(super) fn check_neighbors(features: &Features<'_>, k: usize, metric: &'static str) -> Result<(), MetricError> {
    if k == 0 {
        return Err(MetricError::Zero { what: "the number of neighbors" });
    }
    features.check_num(k.saturating_add(1), metric)
}

/// Which rows of one side are in a pair.
struct Flags {
    flags: Vec<AtomicBool>,
    of_columns: bool,
}

impl Flags {
    fn rows(num: usize) -> Self {
        Self { flags: (0..num).map(|_| AtomicBool::new(false)).collect(), of_columns: false }
    }

    fn columns(num: usize) -> Self {
        Self { of_columns: true, ..Self::rows(num) }
    }

    fn flag(&self, row: usize, column: usize) -> &AtomicBool {
        &self.flags[if self.of_columns { column } else { row }]
    }

    fn fraction(&self) -> f64 {
        let set = self.flags.iter().filter(|flag| flag.load(Ordering::Relaxed)).count();
        set as f64 / self.flags.len() as f64
    }
}

impl Within for Flags {
    fn matters(&self, row: usize, column: usize) -> bool {
        !self.flag(row, column).load(Ordering::Relaxed)
    }

    fn take(&self, row: usize, column: usize) {
        self.flag(row, column).store(true, Ordering::Relaxed);
    }
}

/// The number of pairs, and the rows that are in a pair.
struct Counts {
    pairs: AtomicU64,
    covered: Flags,
}

impl Within for Counts {
    fn matters(&self, _row: usize, _column: usize) -> bool {
        true
    }

    fn take(&self, row: usize, column: usize) {
        self.pairs.fetch_add(1, Ordering::Relaxed);
        self.covered.take(row, column);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(values: &[f32]) -> Features<'_> {
        Features::new(values, 1).unwrap()
    }

    #[test]
    fn radii_are_distances_to_the_kth_other_row() {
        assert_eq!(radii(&line(&[0.0, 1.0, 3.0, 7.0]), 2).unwrap(), [9.0, 4.0, 9.0, 36.0]);
        assert_eq!(radii(&line(&[5.0, 5.0, 6.0]), 1).unwrap(), [0.0, 0.0, 1.0], "a copy is a neighbor");
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
    fn density_counts_balls_and_coverage_counts_rows() {
        let reference = [0.0, 1.0, 10.0];
        let generated = [-1.0, 0.5, 50.0, 60.0];
        // Reference radii 1, 1, 9: -1 is in one ball, 0.5 in two. Two of three balls contain a generated row.
        let both = density_coverage(&line(&reference), &line(&generated), 1).unwrap();
        assert_eq!(both, DensityCoverage { density: 3.0 / 4.0, coverage: 2.0 / 3.0 });
        // Radii 100, 81, 100 for k = 2.
        let both = density_coverage(&line(&reference), &line(&generated), 2).unwrap();
        assert_eq!(both, DensityCoverage { density: 5.0 / 8.0, coverage: 1.0 });
    }

    #[test]
    fn too_few_neighbors_are_errors() {
        let few = [0.0; 3];
        let result = precision_recall(&line(&few), &line(&few), 3);
        assert!(matches!(result, Err(MetricError::TooFew { needed: 4, given: 3, .. })));
        let none = precision_recall(&line(&few), &line(&few), 0);
        assert_eq!(none.unwrap_err(), MetricError::Zero { what: "the number of neighbors" });
        assert!(density_coverage(&line(&few), &line(&[]), 1).is_err());
        assert!(radii(&line(&few), usize::MAX).is_err());
    }
}
