//! The class of each image of a request, as a function of the image's index.

use std::sync::Arc;

use admiral_random::{Philox, Stream};

/// The rule that gives image i its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labels {
    /// Images have no class.
    None,
    /// Image i has the class at i modulo the number of entries. With all classes, they are balanced.
    Cycle(Arc<[i64]>),
    /// Image i has a class drawn uniformly from `0..num_classes`.
    Random {
        /// The seed of the job.
        seed: u64,
        /// The number of classes.
        num_classes: i64,
    },
    /// Image i has the class of an entry that is drawn uniformly, so that classes are as frequent as in the list.
    AsFrequent {
        /// The seed of the job.
        seed: u64,
        /// The classes of a data set.
        classes: Arc<[i64]>,
    },
    /// Image i has the class at i. Images beyond the end, which only fill up a batch, have the last class.
    Table(Arc<[i64]>),
}

impl Labels {
    /// Returns a rule under which all classes are equally frequent.
    #[must_use]
    pub fn balanced(num_classes: i64) -> Self {
        Self::Cycle((0..num_classes).collect())
    }

    /// Returns the class of an image, or `None` if images have no class.
    #[must_use]
    pub fn of(&self, image: u64) -> Option<i64> {
        match self {
            Self::None => None,
            Self::Cycle(classes) => classes.get((image % classes.len().max(1) as u64) as usize).copied(),
            Self::Random { seed, num_classes } => {
                Some(Philox::new(*seed, Stream::Class, image).below(num_classes.unsigned_abs()) as i64)
            }
            Self::AsFrequent { seed, classes } => {
                let entry = Philox::new(*seed, Stream::Class, image).below(classes.len() as u64);
                classes.get(entry as usize).copied()
            }
            Self::Table(classes) => classes.get(image.min(classes.len().saturating_sub(1) as u64) as usize).copied(),
        }
    }

    /// Returns the smallest and the largest class that the rule can give, or `None` if images have no class.
    #[must_use]
    pub fn range(&self) -> Option<(i64, i64)> {
        match self {
            Self::None => None,
            Self::Random { num_classes, .. } => Some((0, num_classes - 1)),
            Self::Cycle(classes) | Self::Table(classes) | Self::AsFrequent { classes, .. } => {
                Some((*classes.iter().min()?, *classes.iter().max()?))
            }
        }
    }
}

/// Returns the labels of a grid and its number of images. With classes, each of the first `max_classes` classes has a
/// row of `per_class` images. Without classes, the grid is a square of `per_class` x `per_class` images.
#[must_use]
pub fn grid_labels(num_classes: Option<i64>, per_class: u64, max_classes: u64) -> (Labels, u64) {
    match num_classes {
        None => (Labels::None, per_class * per_class),
        Some(classes) => rows(0..classes.min(max_classes as i64), per_class),
    }
}

/// Returns the labels of a grid with one row of `per_class` images for each class, and its number of images.
#[must_use]
pub fn rows(classes: impl IntoIterator<Item = i64>, per_class: u64) -> (Labels, u64) {
    let row = |class: i64| std::iter::repeat_n(class, per_class as usize);
    let labels: Arc<[i64]> = classes.into_iter().flat_map(row).collect();
    let count = labels.len() as u64;
    (Labels::Table(labels), count)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn first(labels: &Labels, count: u64) -> Vec<i64> {
        (0..count).map(|image| labels.of(image).unwrap()).collect()
    }

    #[test]
    fn a_grid_has_one_row_for_each_class() {
        assert_eq!(grid_labels(Some(3), 2, 2), (Labels::Table([0, 0, 1, 1].into()), 4));
        assert_eq!(grid_labels(None, 3, 2), (Labels::None, 9));
        assert_eq!(rows([5, 1], 1), (Labels::Table([5, 1].into()), 2));
    }

    #[test]
    fn balanced_classes_are_equally_frequent_and_lists_repeat() {
        assert_eq!(first(&Labels::balanced(3), 7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(first(&Labels::Cycle([4, 2].into()), 3), [4, 2, 4]);
        assert_eq!(first(&Labels::Table([4, 2].into()), 3), [4, 2, 2]);
        assert_eq!(Labels::None.of(3), None);
    }

    #[test]
    fn random_classes_depend_on_seed_and_image_only() {
        let labels = Labels::Random { seed: 1, num_classes: 5 };
        let all = first(&labels, 5000);
        assert_eq!(all[17..90], first(&labels, 90)[17..]);
        assert_ne!(all[..20], first(&Labels::Random { seed: 2, num_classes: 5 }, 20));
        for class in 0..5 {
            let share = all.iter().filter(|&&label| label == class).count();
            // Five standard deviations of a binomial distribution with p = 1/5.
            assert!((860..=1140).contains(&share), "class {class}: {share}");
        }
    }

    #[test]
    fn classes_are_as_frequent_as_in_the_data() {
        let labels = Labels::AsFrequent { seed: 3, classes: [7, 7, 7, 2].into() };
        let share = first(&labels, 4000).iter().filter(|&&label| label == 7).count();
        assert!((2860..=3140).contains(&share), "{share}");
    }

    #[test]
    fn the_range_holds_all_classes() {
        assert_eq!(Labels::None.range(), None);
        assert_eq!(Labels::balanced(4).range(), Some((0, 3)));
        assert_eq!(Labels::Random { seed: 0, num_classes: 3 }.range(), Some((0, 2)));
        assert_eq!(Labels::Table([3, 9, 1].into()).range(), Some((1, 9)));
    }
}
