//! Facts about a whole source.

use super::source::ImageSource;

/// Returns the number of images in each class; empty without classes.
#[must_use]
pub fn class_sizes(source: &dyn ImageSource) -> Vec<u64> {
    let mut sizes = vec![0; source.num_classes()];
    for class in (0..source.num_images()).filter_map(|item| usize::try_from(source.class(item)?).ok()) {
        if let Some(size) = sizes.get_mut(class) {
            *size += 1;
        }
    }
    sizes
}

/// Returns up to `sample` images that are evenly spaced over the `count` images of a source, and at least one.
pub fn spaced_items(count: u64, sample: u64) -> impl Iterator<Item = u64> {
    let sample = sample.clamp(1, count.max(1));
    (0..sample).map(move |index| (u128::from(index) * u128::from(count) / u128::from(sample)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_spaced_evenly() {
        let items = |count, sample| spaced_items(count, sample).collect::<Vec<u64>>();
        assert_eq!(items(10, 3), [0, 3, 6]);
        assert_eq!(items(3, 10), [0, 1, 2]);
        assert_eq!(items(5, 0), [0]);
        assert_eq!(items(u64::MAX, 2), [0, u64::MAX / 2]);
    }
}
