//! The features of the Inception network of 2015, as the published evaluator uses it.
//!
//! Images pass through TensorFlow 1's bilinear resize to 299 x 299, in float32 and exact in every bit, and through
//! `(x - 128) / 128`. The network runs in float32. Batch normalization is folded into the convolutions.

mod network;
mod resize;

use admiral_evaluation::ExtractorIdentity;
use admiral_inception::Weights;
use tch::{Device, Kind, Tensor};

use super::error::Error;
use super::extractor::{FeatureExtractor, ImageFeatures};
use network::{Network, Outputs};
use resize::{CHANNELS, ImageShape, SIDE, resize};

/// The number of images that pass through the network at a time.
const BATCH: usize = 16;

/// The number of spatial features of an image: 7 channels of 17 x 17 positions.
const SPATIAL: usize = 7 * 17 * 17;

/// The Inception network of 2015 with its weights on a device.
#[derive(Debug)]
pub struct Inception {
    network: Network,
    identity: ExtractorIdentity,
    device: Device,
}

impl Inception {
    /// Prepares the network on `device`.
    #[must_use]
    pub fn new(weights: &Weights, device: Device) -> Self {
        let identity = ExtractorIdentity {
            network: "inception-2015".into(),
            weights: weights.fingerprint(),
            resize: "tf1-bilinear-299".into(),
            pool: admiral_inception::POOL,
            spatial: Some(SPATIAL),
            classes: weights.has_classes().then_some(admiral_inception::CLASSES),
        };
        Self { network: tch::no_grad(|| Network::new(weights, device)), identity, device }
    }

    /// Computes the outputs for a batch of resized images.
    fn forward(&self, batch: &[f32]) -> Outputs {
        let shape = [(batch.len() / (SIDE * SIDE * CHANNELS)) as i64, SIDE as i64, SIDE as i64, CHANNELS as i64];
        let x = Tensor::from_slice(batch).reshape(shape).permute([0, 3, 1, 2]).to_device(self.device);
        self.network.forward(&x)
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
        for chunk in bytes.chunks(BATCH * shape.num_bytes()) {
            let num = (chunk.len() / shape.num_bytes()) as i64;
            let mut batch = resize(chunk, shape, num_threads, |value| (value - 128.0) / 128.0);
            // libtorch may choose another kernel for another batch size, so each batch has the same.
            batch.resize(BATCH * SIDE * SIDE * CHANNELS, 0.0);
            let outputs = tch::no_grad(|| self.forward(&batch));
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
