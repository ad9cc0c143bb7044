//! The inception score. It is high if the classifier is certain about each image and the predicted classes vary.

use super::{Features, MetricError};

/// Returns `exp(E KL(p(y|x) || p(y)))`, the mean over splits of `split` consecutive images. The last split may be
/// shorter, and has the same weight as the others.
///
/// `probabilities` is `[num, classes]`. Each row is a distribution.
///
/// # Errors
/// [`MetricError::TooFew`] if there is no image, or `split` is 0.
pub fn inception_score(probabilities: &Features<'_>, split: usize) -> Result<f64, MetricError> {
    probabilities.check_num(1, "the inception score")?;
    if split == 0 {
        return Err(MetricError::TooFew { metric: "a split of the inception score", needed: 1, given: 0 });
    }
    let classes = probabilities.width();
    let scores: Vec<f64> = probabilities
        .values()
        .chunks(split.saturating_mul(classes))
        .map(|part| score_of_split(part, classes))
        .collect();
    Ok(scores.iter().sum::<f64>() / scores.len() as f64)
}

/// Returns the score of one split, `[images, classes]`.
fn score_of_split(part: &[f32], classes: usize) -> f64 {
    let num = (part.len() / classes) as f64;
    let mut marginal = vec![0.0; classes];
    for row in part.chunks_exact(classes) {
        for (sum, &p) in marginal.iter_mut().zip(row) {
            *sum += f64::from(p) / num;
        }
    }
    let divergence: f64 = part
        .chunks_exact(classes)
        .flat_map(|row| row.iter().zip(&marginal))
        // The limit of p ln p for p -> 0 is 0.
        .filter(|(p, _)| **p > 0.0)
        .map(|(&p, &mean)| f64::from(p) * (f64::from(p).ln() - mean.ln()))
        .sum();
    (divergence / num).exp()
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
    }

    #[test]
    fn the_last_split_may_be_short() {
        // The first split has two different images and scores 2, the second has one image and scores 1.
        let table = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0];
        let table = Features::new(&table, 2).unwrap();
        assert!((inception_score(&table, 2).unwrap() - 1.5).abs() < 1e-12);
        assert!(inception_score(&table, 0).is_err());
    }
}
