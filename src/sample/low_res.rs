//! The small images that an upsampler enlarges, by the index of the image.

use std::ops::Range;
use std::sync::Arc;

use admiral_data::{Draws, ImageSource, SampleReader, SampleSpec, square};
use admiral_samples::Images;
use tch::Tensor;

use crate::run_config::RunConfig;

use super::error::Error;
use super::stage::images_of;

/// The small images that an upsampler enlarges. Image i of the result starts from image i, and again from the first after
/// the last.
#[derive(Debug)]
pub enum LowRes {
    /// Images in memory, `[count, channels, size, size]`, in [-1, 1].
    Images(Tensor),
    /// Pictures, cropped and scaled to `size`.
    Pictures {
        /// The pictures.
        source: Arc<dyn ImageSource>,
        /// Height and width of a small image in pixels.
        size: i64,
        /// Channels of an image.
        channels: i64,
    },
    /// The images of an npz file or of another job.
    Samples {
        /// The images.
        images: Images,
        /// Height and width of a small image in pixels.
        size: i64,
        /// Channels of an image.
        channels: i64,
    },
}

impl LowRes {
    /// Returns the number of small images.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Self::Images(images) => images.size()[0].unsigned_abs(),
            Self::Pictures { source, .. } => source.num_images(),
            Self::Samples { images, .. } => images.num(),
        }
    }

    /// Returns the small images of a batch, `[batch, channels, size, size]`, in [-1, 1].
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
                for image in images {
                    let picture = source.load(image % count)?.with_channels(*channels as usize);
                    let picture = square(&picture, *size as usize, &Draws { crop: None, flip: false });
                    picture.append_planes(&mut values);
                }
                Ok(Tensor::from_slice(&values).view([-1, *channels, *size, *size]))
            }
            Self::Samples { images: file, size, channels } => {
                let (mut pixels, mut next) = (Vec::new(), images.start);
                while next < images.end {
                    let first = next % count;
                    let number = (images.end - next).min(count - first);
                    pixels.extend(file.read(first..first + number)?);
                    next += number;
                }
                Ok(images_of(&pixels, *size, *channels))
            }
        }
    }
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
    let batch = SampleReader::new(source, spec).read((0..count).collect())?;
    let (channels, size) = (config.model.image_channels, config.model.image_size);
    let images = Tensor::from_slice(&batch.images).view([count as i64, channels, size, size]);
    Ok((images.adaptive_avg_pool2d([small_size, small_size]), batch.classes))
}
