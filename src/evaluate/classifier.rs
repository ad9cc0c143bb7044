//! Features of images by an Admiral classifier. They suit images unlike those that Inception was trained on, such as grayscale
//! pictures of garments.

use admiral_statistics::ExtractorIdentity;
use tch::{Device, Kind, Tensor, no_grad};

use crate::model::{Encoder, Network, Params, Task};
use crate::ops::Kernels;
use crate::sample::{LoadedModel, OpenedModel};

use super::error::Error;
use super::extractor::{FeatureExtractor, ImageFeatures};

/// The images that are computed together. Batches are always full: kernels may round differently for another batch size.
const BATCH: i64 = 64;

/// A classifier with the weights of a checkpoint. Its features are the maps before its head, averaged over their pixels, of
/// images without noise, at timestep 0.
#[derive(Debug)]
pub struct ClassifierExtractor {
    model: LoadedModel,
    kernels: Kernels,
    device: Device,
    identity: ExtractorIdentity,
}

/// Checks that a checkpoint can give features.
///
/// # Errors
/// [`Error::Sample`] if it is no classifier.
pub(super) fn check_classifier(model: &OpenedModel) -> Result<(), Error> {
    Ok(model.check_task(Task::Classifier, "the network of features")?)
}

impl ClassifierExtractor {
    /// Prepares a classifier that was loaded in float32 to `device`.
    ///
    /// # Errors
    /// [`Error::Refused`] if the model is no classifier.
    pub fn new(model: LoadedModel, kernels: Kernels, device: Device) -> Result<Self, Error> {
        let encoder = encoder_of(&model)?;
        let identity = ExtractorIdentity {
            network: "classifier".into(),
            weights: model.identity.sha256.clone(),
            resize: "none".into(),
            pool: encoder.num_features() as usize,
            spatial: None,
            classes: Some(encoder.spec().out_channels as usize),
        };
        Ok(Self { model, kernels, device, identity })
    }

    fn features(&self, encoder: &Encoder, params: &Params, images: &Tensor) -> (Tensor, Tensor) {
        let x = (images.to_device(self.device).permute([0, 3, 1, 2]).to_kind(Kind::Float) / 127.5 - 1.0).contiguous();
        let timesteps = Tensor::zeros([BATCH], (Kind::Float, self.device));
        encoder.features(&self.kernels, params, &x, &timesteps)
    }
}

fn encoder_of(model: &LoadedModel) -> Result<&Encoder, Error> {
    match &model.network {
        Network::Encoder(encoder) => Ok(encoder),
        _ => Err(Error::Refused("the network of features must be a classifier".into())),
    }
}

impl FeatureExtractor for ClassifierExtractor {
    fn identity(&self) -> &ExtractorIdentity {
        &self.identity
    }

    fn channels(&self) -> usize {
        self.model.config.model.image_channels as usize
    }

    fn image_size(&self) -> Option<usize> {
        Some(self.model.config.model.image_size as usize)
    }

    fn extract(&self, images: &Tensor) -> Result<ImageFeatures, Error> {
        let encoder = encoder_of(&self.model)?;
        let spec = encoder.spec();
        let [num, height, width, channels] = images.size()[..] else {
            return Err(Error::Refused(format!(
                "images of shape {:?} have no height, width and channels",
                images.size()
            )));
        };
        if [height, width] != [spec.image_size; 2] || (channels != spec.in_channels && channels != 1) {
            return Err(Error::Refused(format!(
                "the images have {height} x {width} pixels and {channels} channels; the classifier that gives features \
                 takes {size} x {size} pixels and {} channels",
                spec.in_channels,
                size = spec.image_size
            )));
        }
        let (mut pool, mut logits) = (Vec::new(), Vec::new());
        no_grad(|| {
            for start in (0..num).step_by(BATCH as usize) {
                let own = BATCH.min(num - start);
                let indices = Tensor::arange(BATCH, (Kind::Int64, Device::Cpu)).clamp_max(own - 1) + start;
                let batch = images.index_select(0, &indices).expand([BATCH, height, width, spec.in_channels], false);
                let (means, scores) = self.features(encoder, &self.model.params, &batch);
                pool.push(means.narrow(0, 0, own).to_device(Device::Cpu));
                logits.push(scores.narrow(0, 0, own).to_device(Device::Cpu));
            }
        });
        Ok(ImageFeatures { pool: Tensor::cat(&pool, 0), spatial: None, logits: Some(Tensor::cat(&logits, 0)) })
    }
}
