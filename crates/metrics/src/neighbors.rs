//! The nearest reference images of generated images, and an audit of copies.

use super::distances::{Neighbor, nearest_rows, nearest_rows_within};
use super::manifold::check_neighbors;
use super::{Features, MetricError};

/// Returns for each row of `generated` the index of the nearest row of `reference`. If several are equally near,
/// returns the first of them.
///
/// # Errors
/// [`MetricError::Width`] if the widths differ. [`MetricError::TooFew`] if `reference` is empty.
pub fn nearest(generated: &Features<'_>, reference: &Features<'_>) -> Result<Vec<usize>, MetricError> {
    Ok(nearest_k(generated, reference, 1)?.into_iter().map(|neighbors| neighbors[0].index).collect())
}

/// Returns for each row of `generated` its `k` nearest rows of `reference`, the nearest first. Of equally near rows the
/// first comes first.
///
/// # Errors [`MetricError::Width`] if the widths differ. [`MetricError::Zero`] if `k` is 0. [`MetricError::TooFew`] if
/// `reference` has fewer than `k` rows.
pub fn nearest_k(
    generated: &Features<'_>,
    reference: &Features<'_>,
    k: usize,
) -> Result<Vec<Vec<Neighbor>>, MetricError> {
    generated.check_width(reference)?;
    if k == 0 {
        return Err(MetricError::Zero { what: "the number of neighbors" });
    }
    reference.check_num(k, "the search for neighbors")?;
    Ok(nearest_rows(generated, reference, k))
}

/// How close generated images are to reference images, in units of the distances among reference images.
///
/// The closeness of an image x is `d(x, r) / d(r, r')`: r is the reference image nearest to x, and r' the nearest to r
/// in the reference without x and r. A copy has closeness 0, a slightly changed copy a small closeness. The closeness
/// of each reference image, taken as if it were generated, shows how often small values occur without copying: if
/// generated images were drawn from the distribution of the reference, both would have about the same distribution. The
/// ratio makes images in dense and sparse regions comparable.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyAudit {
    /// The nearest reference image of each generated image.
    pub nearest: Vec<Neighbor>,
    /// The closeness of each generated image.
    pub closeness: Vec<f64>,
    /// The squared distance of each reference image to the nearest other one.
    pub reference_distances: Vec<f64>,
    /// The closeness of each reference image to the others, in ascending order.
    pub reference_closeness: Vec<f64>,
}

impl CopyAudit {
    /// Returns the number of generated images that are closer to a reference image than any two reference images are to
    /// each other. If n generated and m reference images are of the same distribution, about 2 n / m are so by chance.
    #[must_use]
    pub fn closer_than_any(&self) -> usize {
        let smallest = self.reference_distances.iter().copied().fold(f64::INFINITY, f64::min);
        self.nearest.iter().filter(|neighbor| neighbor.squared_distance < smallest).count()
    }

    /// Returns the number of generated images that are closer to their nearest reference image than that is to its own
    /// nearest: closeness below 1. Among images of the same distribution this is common; see
    /// [`suspects`](Self::suspects).
    #[must_use]
    pub fn closer_than_neighbor(&self) -> usize {
        self.closeness.iter().filter(|closeness| **closeness < 1.0).count()
    }

    /// Returns the closeness that a fraction `quantile` of the reference images stays below, and the indices of the
    /// generated images that stay below it too, or are copies, the closest first. Without copying, about the same
    /// fraction of the generated images is expected.
    #[must_use]
    pub fn suspects(&self, quantile: f64) -> (f64, Vec<usize>) {
        let num = self.reference_closeness.len();
        let position = (quantile.clamp(0.0, 1.0) * num as f64) as usize;
        let limit = self.reference_closeness[position.min(num - 1)];
        let mut suspects: Vec<usize> =
            (0..self.closeness.len()).filter(|&i| self.closeness[i] < limit || self.closeness[i] == 0.0).collect();
        suspects.sort_by(|&a, &b| self.closeness[a].total_cmp(&self.closeness[b]));
        (limit, suspects)
    }
}

/// Returns how close generated images are to reference images.
///
/// # Errors [`MetricError::Width`] if the widths differ. [`MetricError::TooFew`] if there are fewer than three
/// reference images or no generated image.
pub fn copy_audit(generated: &Features<'_>, reference: &Features<'_>) -> Result<CopyAudit, MetricError> {
    generated.check_width(reference)?;
    generated.check_num(1, "the audit of copies")?;
    check_neighbors(reference, 2, "the audit of copies")?;
    let nearest: Vec<Neighbor> = nearest_rows(generated, reference, 1).into_iter().map(|found| found[0]).collect();
    // The nearest two besides the row itself. A row with many copies may not be in its own list.
    let others: Vec<[Neighbor; 2]> = nearest_rows_within(reference, 3)
        .into_iter()
        .enumerate()
        .map(|(row, found)| {
            let mut others = found.into_iter().filter(|neighbor| neighbor.index != row);
            std::array::from_fn(|_| others.next().expect("of three rows at most one is the row itself"))
        })
        .collect();
    let closeness = nearest.iter().map(|to| ratio(to, &others[to.index][0])).collect();
    let mut reference_closeness: Vec<f64> = others
        .iter()
        .enumerate()
        .map(|(row, [to, _])| {
            let [first, second] = &others[to.index];
            ratio(to, if first.index == row { second } else { first })
        })
        .collect();
    reference_closeness.sort_by(f64::total_cmp);
    let reference_distances = others.iter().map(|[nearest, _]| nearest.squared_distance).collect();
    Ok(CopyAudit { nearest, closeness, reference_distances, reference_closeness })
}

/// Returns the quotient of two distances, 0 if both are 0.
fn ratio(distance: &Neighbor, unit: &Neighbor) -> f64 {
    if distance.squared_distance == 0.0 { 0.0 } else { (distance.squared_distance / unit.squared_distance).sqrt() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tests::pool_like;

    fn line(values: &[f32]) -> Features<'_> {
        Features::new(values, 1).unwrap()
    }

    #[test]
    fn of_equally_near_rows_the_first_is_returned() {
        let generated: Vec<f32> = (0..40).map(|i| i as f32).collect();
        let indices = nearest(&line(&generated), &line(&[30.0, 10.0, 10.0])).unwrap();
        assert_eq!(indices[..20], [1; 20]);
        assert_eq!(indices[20..], [0; 20], "20 is as far from 30 as from 10");
    }

    #[test]
    fn neighbors_come_in_order_of_distance() {
        let found = nearest_k(&line(&[1.0]), &line(&[5.0, 0.0, 1.5, 2.0]), 3).unwrap();
        let expected = [(2, 0.25), (1, 1.0), (3, 1.0)];
        assert_eq!(found, [expected.map(|(index, squared_distance)| Neighbor { index, squared_distance }).to_vec()]);
    }

    #[test]
    fn planted_copies_are_found() {
        let (width, num) = (16, 600);
        let (mut generated, reference) = (pool_like(num, width, 1), pool_like(num, width, 2));
        let planted = [(7, 300), (200, 0), (599, 41)];
        for (at, from) in planted {
            generated[at * width..(at + 1) * width].copy_from_slice(&reference[from * width..(from + 1) * width]);
            // Copies that were compressed, say.
            generated[at * width] += 0.001;
        }
        let table = |values| Features::new(values, width).unwrap();
        let audit = copy_audit(&table(&generated), &table(&reference)).unwrap();
        // There are twice as many pairs across as within the reference, so about two are closer by chance.
        assert!((planted.len()..planted.len() + 8).contains(&audit.closer_than_any()));
        for (at, from) in planted {
            assert_eq!(audit.nearest[at].index, from);
            assert!(audit.closeness[at] < 0.05);
        }
        let (limit, suspects) = audit.suspects(0.01);
        assert!(limit > 0.05 && suspects.len() < 3 + 20, "{limit} {suspects:?}");
        let mut first = suspects[..3].to_vec();
        first.sort_unstable();
        assert_eq!(first, planted.map(|(at, _)| at));
        // Without the copies, generated rows are as close as reference rows are to each other.
        let (median, below) = audit.suspects(0.5);
        assert!((200..400).contains(&below.len()), "{median} {}", below.len());
        assert!(audit.closer_than_neighbor() > planted.len());
    }

    #[test]
    fn closeness_is_the_quotient_of_distances_without_the_image_itself() {
        let audit = copy_audit(&line(&[0.5, 10.0]), &line(&[0.0, 1.0, 3.0, 10.0, 10.0])).unwrap();
        assert_eq!(audit.reference_distances, [1.0, 1.0, 4.0, 0.0, 0.0]);
        // 0.5 is nearest to 0, whose nearest is 1 away. 10 is a copy.
        assert_eq!(audit.closeness, [0.5, 0.0]);
        // 0 -> 1 -> 3, 1 -> 0 -> 3, 3 -> 1 -> 0; each 10 is a copy of the other.
        assert_eq!(audit.reference_closeness, [0.0, 0.0, 1.0 / 3.0, 0.5, 2.0]);
        assert_eq!(audit.suspects(0.0), (0.0, vec![1]), "copies are suspects even where the reference has copies");
    }

    #[test]
    fn bad_requests_are_errors() {
        assert!(matches!(nearest(&line(&[0.0]), &line(&[])), Err(MetricError::TooFew { needed: 1, given: 0, .. })));
        assert_eq!(
            nearest_k(&line(&[0.0]), &line(&[0.0]), 0).unwrap_err(),
            MetricError::Zero { what: "the number of neighbors" }
        );
        let wide = [0.0; 2];
        let wide = Features::new(&wide, 2).unwrap();
        assert_eq!(nearest(&line(&[0.0]), &wide).unwrap_err(), MetricError::Width { left: 1, right: 2 });
        assert!(matches!(copy_audit(&line(&[0.0]), &line(&[0.0; 2])), Err(MetricError::TooFew { needed: 3, .. })));
    }
}
