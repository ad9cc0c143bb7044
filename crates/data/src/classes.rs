//! Classes whose labels are numbers.

use std::collections::HashSet;

/// Below this share of classes with images, labels are probably no classes, or one of them is damaged.
const MIN_SHARE: usize = 10;

/// Returns what is doubtful about the labels of all images: that nearly no class has an image, because the largest label
/// makes the number of classes.
pub(crate) fn doubt(labels: &[u32]) -> Option<String> {
    let (image, largest) = labels.iter().enumerate().max_by_key(|&(_, label)| label)?;
    let num_classes = *largest as usize + 1;
    let used = labels.iter().collect::<HashSet<_>>().len();
    (used < num_classes / MIN_SHARE).then(|| {
        format!(
            "only {used} of {num_classes} classes have images, because image {image} has the label {largest}; check the labels"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_far_beyond_the_others_is_doubtful() {
        let text = doubt(&[0, 3, 65_535, 1]).unwrap_or_default();
        assert!(text.contains("only 4 of 65536 classes") && text.contains("image 2 has the label 65535"), "{text}");
        assert_eq!(doubt(&[0, 7]), None);
        assert_eq!(doubt(&(0..100).map(|label| label * 10).collect::<Vec<u32>>()), None);
        assert_eq!(doubt(&[]), None);
    }
}
