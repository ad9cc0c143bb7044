//! The columns of the paper's tables, from which a proposal starts.

/// A network and its schedule from which a proposal starts: a column of the paper's Table 11, or a small twin.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// The name, for example `ImageNet 64`.
    pub name: String,
    /// The height and width of its images in pixels.
    pub image_size: u64,
    /// Whether it is conditioned on classes.
    pub is_conditional: bool,
    /// The number of levels of its network. Each level halves the size.
    pub num_levels: u32,
    /// The base number of channels of its network.
    pub num_channels: u64,
    /// The number of images of its data set.
    pub images: u64,
    /// The samples of a step.
    pub global_batch: u64,
    /// The samples of a pass where the memory is unknown.
    pub microbatch: u64,
    /// The steps of its run.
    pub steps: u64,
    /// The learning rate.
    pub learning_rate: f64,
    /// The rate of the moving average.
    pub ema_rate: f64,
    /// The dropout.
    pub dropout: f64,
}

impl Column {
    /// Returns the samples of its run.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.steps.saturating_mul(self.global_batch)
    }

    /// Whether its network takes images of this size: each level halves it.
    #[must_use]
    pub fn takes(&self, size: u64) -> bool {
        size > 0 && size.is_multiple_of(self.divisor())
    }

    /// Returns the number that must divide the size of images.
    #[must_use]
    pub fn divisor(&self) -> u64 {
        1 << self.num_levels.saturating_sub(1)
    }
}

/// Returns the index of the column that is nearest in size, then in having classes, then in the number of images.
/// Returns `None` if no network takes this size.
#[must_use]
pub fn nearest_column(columns: &[Column], size: u64, has_classes: bool, images: u64) -> Option<usize> {
    let distance = |a: u64, b: u64| (a.max(1) as f64 / b.max(1) as f64).ln().abs();
    let key = |column: &Column| {
        let other_kind = f64::from(u8::from(column.is_conditional != has_classes));
        [distance(size, column.image_size), other_kind, distance(images, column.images)]
    };
    let possible = columns.iter().enumerate().filter(|(_, column)| column.takes(size));
    possible.min_by(|(_, a), (_, b)| compare(&key(a), &key(b))).map(|(index, _)| index)
}

fn compare(a: &[f64; 3], b: &[f64; 3]) -> std::cmp::Ordering {
    let orders = a.iter().zip(b).map(|(a, b)| a.total_cmp(b));
    orders.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The column ImageNet 64.
    pub(crate) fn imagenet64() -> Column {
        Column {
            name: "ImageNet 64".into(),
            image_size: 64,
            is_conditional: true,
            num_levels: 4,
            num_channels: 192,
            images: 1_281_167,
            global_batch: 2048,
            microbatch: 96,
            steps: 540_000,
            learning_rate: 3e-4,
            ema_rate: 0.9999,
            dropout: 0.1,
        }
    }

    #[test]
    fn size_comes_before_classes_and_those_before_the_number_of_images() {
        let column = |image_size, is_conditional, images, num_levels| Column {
            image_size,
            is_conditional,
            images,
            num_levels,
            ..imagenet64()
        };
        let columns = [
            column(64, true, 1_281_167, 4),
            column(128, true, 1_281_167, 5),
            column(256, true, 1_281_167, 6),
            column(256, false, 1_657_266, 6),
            column(256, false, 3_033_042, 6),
        ];
        let nearest = |size, has_classes, images| nearest_column(&columns, size, has_classes, images);
        assert_eq!(nearest(64, false, 1000), Some(0));
        assert_eq!(nearest(96, true, 1000), Some(1));
        assert_eq!(nearest(256, true, 1000), Some(2));
        assert_eq!(nearest(256, false, 1000), Some(3));
        assert_eq!(nearest(256, false, 5_000_000), Some(4));
        // 200 = 8 x 25: only four levels.
        assert_eq!(nearest(200, true, 1000), Some(0));
        assert_eq!(nearest(100, true, 1000), None);
        assert_eq!(nearest(0, true, 1000), None);
    }
}
