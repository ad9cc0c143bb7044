//! The inception score: how sure the classifier is of each image, and how varied its answers are.

use super::{Features, MetricError};

/// `exp(E KL(p(y|x) || p(y)))`, the mean over splits of `split` images in order; a shorter last split counts as one.
///
/// `probabilities` is `[num, classes]`, each row a distribution.
///
/// # Errors
/// [`MetricError::TooFew`] where there is no image or the split is empty.
pub fn inception_score(probabilities: &Features<'_>, split: usize) -> Result<f64, MetricError> {
    probabilities.at_least(1, "the inception score")?;
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
        // p ln p goes to zero with p.
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
    fn sure_and_varied_is_the_number_of_classes_and_unsure_is_one() {
        let sure = [1.0, 0.0, 0.0, 1.0];
        assert!((inception_score(&Features::new(&sure, 2).unwrap(), 2).unwrap() - 2.0).abs() < 1e-12);
        let unsure = [0.5; 4];
        assert!((inception_score(&Features::new(&unsure, 2).unwrap(), 2).unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_last_split_may_be_short() {
        // Two varied images, then one alone: (2 + 1) / 2.
        let table = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0];
        let table = Features::new(&table, 2).unwrap();
        assert!((inception_score(&table, 2).unwrap() - 1.5).abs() < 1e-12);
        assert!(inception_score(&table, 0).is_err());
    }
}
