//! Class dropout (Ho and Salimans 2021): training without the class of some samples, for classifier-free guidance.

use admiral_random::{Philox, Stream};

/// Replaces the class of each sample by `null_class` with the given probability.
///
/// `indices` has the global index of each sample. Whether a class is replaced depends on the seed and this index only,
/// so it is the same for any number of ranks and after a restart.
pub(super) fn drop_classes(classes: &mut [i64], indices: &[u64], seed: u64, probability: f64, null_class: i64) {
    for (class, &index) in classes.iter_mut().zip(indices) {
        if Philox::new(seed, Stream::ClassDropout, index).uniform() < probability {
            *class = null_class;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(indices: &[u64], seed: u64, probability: f64) -> Vec<i64> {
        let mut classes: Vec<i64> = indices.iter().map(|index| (index % 10) as i64).collect();
        drop_classes(&mut classes, indices, seed, probability, 10);
        classes
    }

    #[test]
    fn classes_are_replaced_at_the_rate_and_kept_otherwise() {
        let indices: Vec<u64> = (0..20_000).collect();
        let classes = dropped(&indices, 3, 0.1);
        let num_null = classes.iter().filter(|&&class| class == 10).count();
        assert!((1_850..2_150).contains(&num_null), "{num_null}");
        assert!(classes.iter().zip(&indices).all(|(&class, index)| class == 10 || class == (index % 10) as i64));
        assert!(dropped(&indices, 3, 0.0).iter().all(|&class| class < 10));
    }

    #[test]
    fn the_choice_depends_on_the_seed_and_the_index_only() {
        let indices: Vec<u64> = (0..200).collect();
        let whole = dropped(&indices, 7, 0.5);
        for num_ranks in [2, 5] {
            for rank in 0..num_ranks {
                let own: Vec<u64> = indices.iter().copied().filter(|index| index % num_ranks == rank).collect();
                let expected: Vec<i64> = own.iter().map(|&index| whole[index as usize]).collect();
                assert_eq!(dropped(&own, 7, 0.5), expected);
            }
        }
        assert_ne!(dropped(&indices, 8, 0.5), whole);
    }
}
