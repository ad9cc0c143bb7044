//! Images that a model is given, by their index: those that an upsampler enlarges, and those that are encoded.

use std::ops::Range;
use std::sync::Arc;

use admiral_data::{Buffers, DataError, Draws, ImageSource, SampleReader, SampleSpec, load_square};
use admiral_samples::Images;
use tch::Tensor;

use crate::run_config::RunConfig;

use super::error::Error;
use super::stage::images_of;

/// Images that a model is given. Image i of its result comes from image i, and again from the first after the last.
#[derive(Debug)]
pub enum GivenImages {
    /// Images in memory, `[count, channels, size, size]`, in [-1, 1].
    Images(Tensor),
    /// Pictures, scaled and cropped to `size` around the center.
    Pictures {
        /// The pictures.
        source: Arc<dyn ImageSource>,
        /// Height and width of an image in pixels.
        size: i64,
        /// Channels of an image.
        channels: i64,
    },
    /// The images of an npz file or of another job.
    Samples {
        /// The images.
        images: Box<Images>,
        /// Height and width of an image in pixels.
        size: i64,
        /// Channels of an image.
        channels: i64,
    },
}

impl GivenImages {
    /// Returns the number of images.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Self::Images(images) => images.size()[0].unsigned_abs(),
            Self::Pictures { source, .. } => source.num_images(),
            Self::Samples { images, .. } => images.num(),
        }
    }

    /// Returns the images of a batch, `[batch, channels, size, size]`, in [-1, 1].
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn load(&mut self, images: Range<u64>) -> Result<Tensor, Error> {
        let count = self.count().max(1);
        match self {
            Self::Images(all) => {
                let indices: Vec<i64> = images.map(|image| (image % count) as i64).collect();
                Ok(all.index_select(0, &Tensor::from_slice(&indices)))
            }
            Self::Pictures { source, size, channels } => {
                let mut values: Vec<f32> = Vec::new();
                let draws = Draws { crop: None, flip: false };
                for image in images {
                    let picture = load_square(&**source, image % count, *size as usize, *channels as usize, &draws)
                        .map_err(DataError::without_fields)?;
                    picture.append_planes(&mut values);
                }
                Ok(Tensor::from_slice(&values).view([-1, *channels, *size, *size]))
            }
            Self::Samples { images: file, size, channels } => {
                let mut pixels = Vec::new();
                for piece in wrapped(images, count) {
                    pixels.extend(file.read(piece)?);
                }
                Ok(images_of(&pixels, *size, *channels))
            }
        }
    }
}

/// Returns the ranges that `indices` become if the first of `count` follows the last.
pub(super) fn wrapped(indices: Range<u64>, count: u64) -> impl Iterator<Item = Range<u64>> {
    let mut next = indices.start;
    std::iter::from_fn(move || {
        let first = next % count;
        let number = (indices.end - next).min(count - first);
        next += number;
        (number > 0).then(|| first..first + number)
    })
}

/// Returns the first `count` training samples, downsampled to `[count, channels, small_size, small_size]`, with their
/// classes. They are the input of an upsampler's sample grid.
///
/// # Errors
/// When an image cannot be read.
pub fn low_res_examples(
    config: &RunConfig,
    source: Arc<dyn ImageSource>,
    count: u64,
    small_size: i64,
) -> Result<(Tensor, Vec<i64>), Error> {
    let spec = SampleSpec { random_flip: false, ..config.sample_spec(false) };
    let batch = SampleReader::new(source, spec).read((0..count).collect(), &mut Buffers::default())?;
    let (channels, size) = (config.model.image_channels, config.model.image_size);
    let images = Tensor::from_slice(&batch.images).view([count as i64, channels, size, size]);
    Ok((images.adaptive_avg_pool2d([small_size, small_size]), batch.classes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_follows_the_last() {
        let ends = |indices: Range<u64>, count| -> Vec<(u64, u64)> {
            wrapped(indices, count).map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(ends(2..4, 6), [(2, 4)]);
        assert_eq!(ends(4..9, 6), [(4, 6), (0, 3)]);
        assert_eq!(ends(7..12, 2), [(1, 2), (0, 2), (0, 2)]);
        assert_eq!(ends(3..3, 2), []);
    }
}
