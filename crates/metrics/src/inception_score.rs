//! The inception score (Salimans et al., "Improved techniques for training GANs", 2016): `exp(E KL(p(y|x) || p(y)))`.
//! It is high if the classifier is certain about each image and the predicted classes vary.

use std::ops::Range;

use rayon::prelude::*;

use super::subsets::{Purpose, draw};
use super::tiles::ranges;
use super::{Features, MeanSpread, MetricError};

/// The number of consecutive images of a piece that the published evaluator uses.
pub const SPLIT: usize = 5000;
/// The number of rows that one task sums.
const ROWS: usize = 256;

/// Returns the mean score over pieces of `split` consecutive images. The last piece may be shorter, and has the same
/// weight as the others.
///
/// `probabilities` is `[num, classes]`. Each row is a distribution.
///
/// # Errors
/// [`MetricError::TooFew`] if there is no image. [`MetricError::Zero`] if `split` is 0.
pub fn inception_score(probabilities: &Features<'_>, split: usize) -> Result<f64, MetricError> {
    of_splits(probabilities, split, |row, p| p.iter_mut().zip(row).for_each(|(p, &value)| *p = f64::from(value)))
}

/// As [`inception_score`], of logits `[num, classes]`. Their softmax is computed in float64.
///
/// # Errors
/// As for [`inception_score`].
pub fn inception_score_of_logits(logits: &Features<'_>, split: usize) -> Result<f64, MetricError> {
    of_splits(logits, split, softmax)
}

/// Returns the mean and the deviation of the score over `pieces` pieces of almost equal sizes: piece i has the images
/// `order[i n / pieces .. (i + 1) n / pieces]`.
///
/// # Errors
/// [`MetricError::Zero`] if `pieces` is 0. [`MetricError::TooFew`] if there are fewer images than pieces.
/// [`MetricError::Permutation`] if `order` does not have each image once.
pub fn inception_score_of_pieces(
    logits: &Features<'_>,
    order: &[usize],
    pieces: usize,
) -> Result<MeanSpread, MetricError> {
    if pieces == 0 {
        return Err(MetricError::Zero { what: "the number of pieces" });
    }
    let num = logits.num();
    logits.check_num(pieces, "the inception score of pieces")?;
    let mut seen = vec![false; num];
    let fresh = |&row: &usize| seen.get_mut(row).is_some_and(|seen| !std::mem::replace(seen, true));
    if order.len() != num || !order.iter().all(fresh) {
        return Err(MetricError::Permutation { given: order.len(), num });
    }
    let border = |piece: usize| (piece as u128 * num as u128 / pieces as u128) as usize;
    let scores: Vec<f64> = (0..pieces)
        .map(|piece| score(logits, border(piece)..border(piece + 1), &|position| order[position], &softmax))
        .collect();
    Ok(MeanSpread::of(&scores))
}

/// Returns a random order of `num` images for [`inception_score_of_pieces`].
#[must_use]
pub fn random_order(num: usize, seed: u64) -> Vec<usize> {
    draw(seed, Purpose::InceptionScore, 0, num, num)
}

fn of_splits(
    table: &Features<'_>,
    split: usize,
    probabilities: impl Fn(&[f32], &mut [f64]) + Sync,
) -> Result<f64, MetricError> {
    table.check_num(1, "the inception score")?;
    if split == 0 {
        return Err(MetricError::Zero { what: "the number of images of a piece" });
    }
    let scores: Vec<f64> =
        ranges(table.num(), split).map(|rows| score(table, rows, &|row| row, &probabilities)).collect();
    Ok(scores.iter().sum::<f64>() / scores.len() as f64)
}

/// Returns the score of the rows `row(i)` for the given i.
///
/// `E KL(p(y|x) || p(y))` is `E sum p ln p - sum q ln q` with `q = E p`.
fn score(
    table: &Features<'_>,
    positions: Range<usize>,
    row: &(impl Fn(usize) -> usize + Sync),
    probabilities: &(impl Fn(&[f32], &mut [f64]) + Sync),
) -> f64 {
    let classes = table.width();
    let tasks: Vec<Range<usize>> =
        ranges(positions.len(), ROWS).map(|task| task.start + positions.start..task.end + positions.start).collect();
    let parts: Vec<(f64, Vec<f64>)> = tasks
        .into_par_iter()
        .map(|task| {
            let (mut certainty, mut sums, mut p) = (0.0, vec![0.0; classes], vec![0.0; classes]);
            for position in task {
                probabilities(table.row(row(position)), &mut p);
                certainty += p.iter().map(|&p| p_ln_p(p)).sum::<f64>();
                sums.iter_mut().zip(&p).for_each(|(sum, p)| *sum += p);
            }
            (certainty, sums)
        })
        .collect();
    let num = positions.len() as f64;
    let certainty: f64 = parts.iter().map(|(certainty, _)| certainty).sum();
    let variety: f64 =
        (0..classes).map(|class| p_ln_p(parts.iter().map(|(_, sums)| sums[class]).sum::<f64>() / num)).sum();
    (certainty / num - variety).exp()
}

/// Returns p ln p. The limit for p -> 0 is 0.
fn p_ln_p(p: f64) -> f64 {
    if p > 0.0 { p * p.ln() } else { 0.0 }
}

/// Writes the softmax of a row of logits.
fn softmax(logits: &[f32], p: &mut [f64]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for (p, &logit) in p.iter_mut().zip(logits) {
        *p = (f64::from(logit) - f64::from(largest)).exp();
        total += *p;
    }
    p.iter_mut().for_each(|p| *p /= total);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn certain_and_varied_scores_the_number_of_classes_and_uncertain_scores_one() {
        let certain = [1.0, 0.0, 0.0, 1.0];
        assert!((inception_score(&Features::new(&certain, 2).unwrap(), 2).unwrap() - 2.0).abs() < 1e-12);
        let uncertain = [0.5; 4];
        assert!((inception_score(&Features::new(&uncertain, 2).unwrap(), 2).unwrap() - 1.0).abs() < 1e-12);
        let logits = [2000.0, 0.0, 0.0, 2000.0];
        assert!((inception_score_of_logits(&Features::new(&logits, 2).unwrap(), 2).unwrap() - 2.0).abs() < 1e-12);
    }

    #[test]
    fn the_last_split_may_be_short() {
        // The first split has two different images and scores 2, the second has one image and scores 1.
        let table = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0];
        let table = Features::new(&table, 2).unwrap();
        assert!((inception_score(&table, 2).unwrap() - 1.5).abs() < 1e-12);
        assert_eq!(
            inception_score(&table, 0).unwrap_err(),
            MetricError::Zero { what: "the number of images of a piece" }
        );
    }

    #[test]
    fn tasks_sum_to_the_definition() {
        let (num, classes) = (ROWS + 7, 3);
        let logits: Vec<f32> = (0..num * classes).map(|i| (i * 31 % 17) as f32 / 4.0).collect();
        let p: Vec<Vec<f64>> = logits
            .chunks_exact(classes)
            .map(|row| {
                let powers: Vec<f64> = row.iter().map(|&logit| f64::from(logit).exp()).collect();
                powers.iter().map(|power| power / powers.iter().sum::<f64>()).collect()
            })
            .collect();
        let mean = |class: usize| p.iter().map(|row| row[class]).sum::<f64>() / num as f64;
        let divergence =
            |row: &Vec<f64>| (0..classes).map(|class| row[class] * (row[class] / mean(class)).ln()).sum::<f64>();
        let expected = (p.iter().map(divergence).sum::<f64>() / num as f64).exp();
        let score = inception_score_of_logits(&Features::new(&logits, classes).unwrap(), num).unwrap();
        assert!((score - expected).abs() < 1e-12, "{score} {expected}");
    }

    #[test]
    fn pieces_follow_the_order() {
        let large = 2000.0;
        let logits = [large, 0.0, 0.0, large, large, 0.0, large, 0.0, 0.0, large];
        let table = Features::new(&logits, 2).unwrap();
        // Pieces [0, 1] and [2, 3, 4]: two different images, then three equal ones.
        let score = inception_score_of_pieces(&table, &[0, 1, 2, 3, 4], 2).unwrap();
        let second = ((1.0_f64 / 3.0) * 3.0_f64.ln() + (2.0 / 3.0) * 1.5_f64.ln()).exp();
        assert!((score.mean - (2.0 + second) / 2.0).abs() < 1e-12);
        assert!((score.deviation - (2.0 - second) / 2.0).abs() < 1e-12);
        let reordered = inception_score_of_pieces(&table, &[1, 4, 0, 2, 3], 2).unwrap();
        assert!((reordered.mean - 1.0).abs() < 1e-12 && reordered.deviation < 1e-12, "each piece has equal images");
        let mut order = random_order(5, 1);
        assert!(inception_score_of_pieces(&table, &order, 2).is_ok());
        order.sort_unstable();
        assert_eq!(order, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn bad_orders_and_pieces_are_errors() {
        let table = Features::new(&[1.0, 0.0, 0.0, 1.0], 2).unwrap();
        let of = |order: &[usize], pieces| inception_score_of_pieces(&table, order, pieces).unwrap_err();
        for order in [[0, 0].as_slice(), &[0], &[0, 2]] {
            assert_eq!(of(order, 1), MetricError::Permutation { given: order.len(), num: 2 });
        }
        assert_eq!(of(&[0, 1], 0), MetricError::Zero { what: "the number of pieces" });
        assert!(matches!(of(&[0, 1], 3), MetricError::TooFew { needed: 3, given: 2, .. }));
    }
}
