//! The features of the Inception network of 2015, as the published evaluator uses it.
//!
//! Images pass through TensorFlow 1's bilinear resize to 299 x 299, in float32 and exact in every bit, and through
//! `(x - 128) / 128`. The network runs in float32. Batch normalization is folded into the convolutions.

mod network;
mod resize;

use std::path::Path;

use admiral_inception::{Weights, how_to_get};
use admiral_statistics::ExtractorIdentity;
use tch::{Device, Kind, Tensor};

use super::error::Error;
use super::extractor::{FeatureExtractor, ImageFeatures};
use crate::ops::Kernels;
use network::{Network, Outputs};
use resize::{CHANNELS, ImageShape, SIDE, resize};

/// The number of images that pass through the network at a time, on a CPU and on a GPU. On a CPU the largest map of 4
/// images has 22 MB: the allocator reuses its memory, which it returns to the system if it has 32 MiB.
const CPU_BATCH: usize = 4;
const GPU_BATCH: usize = 64;

/// The number of spatial features of an image: 7 channels of 17 x 17 positions.
const SPATIAL: usize = 7 * 17 * 17;

/// The Inception network of 2015 with its weights on a device.
#[derive(Debug)]
pub struct Inception {
    network: Network,
    identity: ExtractorIdentity,
    device: Device,
    /// The number of images that pass through the network at a time.
    batch: usize,
}

impl Inception {
    /// Prepares the network on the device of `kernels`. On a GPU the features are those of float32 only if libtorch may
    /// not use TF32 ([`allow_tf32`](crate::ops::bridge::allow_tf32)).
    ///
    /// # Errors
    /// [`Error::Operation`] if libtorch fails.
    pub fn new(weights: &Weights, kernels: &Kernels) -> Result<Self, Error> {
        let identity = ExtractorIdentity {
            network: "inception-2015".into(),
            weights: weights.fingerprint(),
            resize: "tf1-bilinear-299".into(),
            pool: admiral_inception::POOL,
            spatial: Some(SPATIAL),
            classes: weights.has_classes().then_some(admiral_inception::CLASSES),
        };
        let device = kernels.device();
        let batch = if device == Device::Cpu { CPU_BATCH } else { GPU_BATCH };
        let network = tch::no_grad(|| Network::new(weights, kernels, batch as i64))?;
        Ok(Self { network, identity, device, batch })
    }

    /// Computes the outputs for a batch of resized images.
    fn forward(&self, batch: &[f32]) -> Result<Outputs, Error> {
        let shape = [(batch.len() / (SIDE * SIDE * CHANNELS)) as i64, SIDE as i64, SIDE as i64, CHANNELS as i64];
        let x = Tensor::from_slice(batch).reshape(shape).permute([0, 3, 1, 2]).to_device(self.device);
        Ok(self.network.forward(&x)?)
    }
}

impl FeatureExtractor for Inception {
    fn identity(&self) -> &ExtractorIdentity {
        &self.identity
    }

    fn channels(&self) -> usize {
        CHANNELS
    }

    fn image_size(&self) -> Option<usize> {
        None
    }

    fn extract(&self, images: &Tensor) -> Result<ImageFeatures, Error> {
        let (bytes, shape) = bytes_of(images)?;
        let (mut pool, mut spatial, mut logits) = (Vec::new(), Vec::new(), Vec::new());
        let num_threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
        for chunk in bytes.chunks(self.batch * shape.num_bytes()) {
            let num = (chunk.len() / shape.num_bytes()) as i64;
            let mut batch = resize(chunk, shape, num_threads, |value| (value - 128.0) / 128.0);
            // libtorch may choose another kernel for another batch size, so each batch has the same.
            batch.resize(self.batch * SIDE * SIDE * CHANNELS, 0.0);
            let outputs = tch::no_grad(|| self.forward(&batch))?;
            let keep = |x: &Tensor| x.narrow(0, 0, num).to_device(Device::Cpu);
            pool.push(keep(&outputs.pool));
            spatial.push(keep(&outputs.spatial));
            logits.extend(outputs.logits.as_ref().map(keep));
        }
        Ok(ImageFeatures {
            pool: Tensor::cat(&pool, 0),
            spatial: Some(Tensor::cat(&spatial, 0)),
            logits: (!logits.is_empty()).then(|| Tensor::cat(&logits, 0)),
        })
    }
}

/// Reads the weights from the file that the user has named: `ADMIRAL_INCEPTION`, or an option.
///
/// # Errors
/// [`Error::Refused`] if there is no file, with the text that tells which to get. [`Error::Inception`] if it does not hold
/// the weights.
pub fn open_weights(file: Option<&Path>) -> Result<Weights, Error> {
    let file = file.ok_or_else(|| Error::Refused(how_to_get()))?;
    Ok(Weights::open(file)?)
}

/// Resizes uint8 images `[num, height, width, channels]` to float32 `[num, 299, 299, 3]`, still from 0 to 255, as the
/// network sees them before `(x - 128) / 128`.
///
/// # Errors
/// [`Error::Refused`] if the images have another kind or shape.
pub fn resized(images: &Tensor) -> Result<Tensor, Error> {
    let (bytes, shape) = bytes_of(images)?;
    let num_threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
    let resized = resize(&bytes, shape, num_threads, |value| value);
    Ok(Tensor::from_slice(&resized).reshape([-1, SIDE as i64, SIDE as i64, CHANNELS as i64]))
}

/// Returns the bytes of images and the shape of one.
fn bytes_of(images: &Tensor) -> Result<(Vec<u8>, ImageShape), Error> {
    let size = images.size();
    let refused = |reason: String| Err(Error::Refused(format!("the Inception network takes {reason}")));
    if images.kind() != Kind::Uint8 {
        return refused(format!("images of bytes (uint8), not {:?}", images.kind()));
    }
    let [num, height, width, channels] = size[..] else {
        return refused(format!("images as [num, height, width, channels], not of the shape {size:?}"));
    };
    if channels != 1 && channels != CHANNELS as i64 {
        return refused(format!("images of 1 or 3 channels, not {channels}: the shape is {size:?}"));
    }
    if num == 0 || height == 0 || width == 0 {
        return refused(format!("at least one image of at least one pixel, not the shape {size:?}"));
    }
    let shape = ImageShape { height: height as usize, width: width as usize, channels: channels as usize };
    let mut bytes = vec![0; num as usize * shape.num_bytes()];
    let length = bytes.len();
    images.to_device(Device::Cpu).contiguous().copy_data_u8(&mut bytes, length);
    Ok((bytes, shape))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Weights whose features differ from image to image.
    fn weights(has_classes: bool) -> Weights {
        tch::manual_seed(3);
        let all = Weights::computed(|tensor| {
            let count = tensor.num_elements() as i64;
            if tensor.name.ends_with("running_var") || tensor.name.ends_with("bn.weight") {
                return vec![1.0; count as usize];
            }
            let fan_in = tensor.shape[1..].iter().product::<usize>() as f64;
            let values = Tensor::randn([count], (Kind::Float, Device::Cpu)) * (2.0 / fan_in.max(100.0)).sqrt();
            values.try_into().unwrap()
        });
        let all = all.unwrap();
        if has_classes { all } else { all.without_classes() }
    }

    fn images(shape: &[i64]) -> Tensor {
        tch::manual_seed(4);
        Tensor::randint(256, shape, (Kind::Uint8, Device::Cpu))
    }

    #[test]
    fn the_features_of_an_image_do_not_depend_on_the_others() {
        let inception = Inception::new(&weights(true), &Kernels::cpu()).unwrap();
        let images = images(&[6, 20, 24, 3]);
        let together = inception.extract(&images).unwrap();
        let different = together.pool.get(0).not_equal_tensor(&together.pool.get(1)).any();
        assert!(bool::try_from(different).unwrap());
        for i in 0..6 {
            let alone = inception.extract(&images.narrow(0, i, 1)).unwrap();
            for (alone, together) in [
                (Some(alone.pool), Some(&together.pool)),
                (alone.spatial, together.spatial.as_ref()),
                (alone.logits, together.logits.as_ref()),
            ] {
                assert!(alone.unwrap().equal(&together.unwrap().narrow(0, i, 1)), "image {i}");
            }
        }
    }

    #[test]
    fn gray_images_are_repeated_and_weights_without_classes_have_no_logits() {
        let inception = Inception::new(&weights(false), &Kernels::cpu()).unwrap();
        assert_eq!((inception.identity().classes, inception.identity().spatial), (None, Some(2023)));
        let gray = images(&[1, 9, 9, 1]);
        let found = inception.extract(&gray).unwrap();
        assert!(found.logits.is_none());
        assert_eq!((found.pool.size(), found.spatial.unwrap().size()), (vec![1, 2048], vec![1, 2023]));
        assert!(found.pool.equal(&inception.extract(&gray.repeat([1, 1, 1, 3])).unwrap().pool));
    }

    #[test]
    fn other_shapes_and_kinds_are_refused() {
        for (images, expected) in [
            (images(&[1, 3, 8, 8]), "not 8"),
            (images(&[8, 8, 3]), "[num, height, width, channels]"),
            (images(&[0, 8, 8, 3]), "at least one image"),
            (images(&[1, 8, 8, 3]).to_kind(Kind::Float), "not Float"),
        ] {
            let error = resized(&images).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
