//! A request for images.

use tch::Tensor;

use crate::run_config::RunConfig;

/// A request for images.
#[derive(Debug)]
pub struct SampleRequest {
    /// Height and width in pixels.
    pub size: i64,
    /// Channels of an image.
    pub channels: i64,
    /// The seed of all noise.
    pub seed: u64,
    /// The class of each image, for class-conditional networks.
    pub labels: Option<Vec<i64>>,
    /// The number of images.
    pub count: u64,
    /// The small images for super-resolution, `[count, channels, small, small]`, in [-1, 1].
    pub low_res: Option<Tensor>,
    /// The number of images sampled together.
    pub batch_size: u64,
}

impl SampleRequest {
    /// Creates a request for `count` images from the `model` and `sampling` sections of a configuration.
    #[must_use]
    pub fn new(config: &RunConfig, seed: u64, labels: Option<Vec<i64>>, count: u64, low_res: Option<Tensor>) -> Self {
        Self {
            size: config.model.image_size,
            channels: config.model.image_channels,
            seed,
            labels,
            count,
            low_res,
            batch_size: config.sampling.batch_size,
        }
    }

    /// Returns the shape of an image, `[height, width, channels]`.
    #[must_use]
    pub fn image_shape(&self) -> [usize; 3] {
        [self.size as usize, self.size as usize, self.channels as usize]
    }
}

/// Returns the labels of a grid and its number of images. With classes, each of the first `max_classes` classes has a
/// row of `per_class` images. Without classes, the grid is a square of `per_class` x `per_class` images.
#[must_use]
pub fn grid_labels(num_classes: Option<i64>, per_class: u64, max_classes: u64) -> (Option<Vec<i64>>, u64) {
    match num_classes {
        None => (None, per_class * per_class),
        Some(classes) => {
            let rows = classes.min(max_classes as i64);
            let labels: Vec<i64> = (0..rows).flat_map(|class| vec![class; per_class as usize]).collect();
            let count = labels.len() as u64;
            (Some(labels), count)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_one_row_for_each_class() {
        assert_eq!(grid_labels(Some(3), 2, 2), (Some(vec![0, 0, 1, 1]), 4));
        assert_eq!(grid_labels(None, 3, 2), (None, 9));
    }
}
