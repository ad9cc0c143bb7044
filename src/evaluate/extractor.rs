//! Networks that turn images into features.

use std::fmt::Debug;

use admiral_evaluation::NetworkInput;
use admiral_statistics::ExtractorIdentity;
use tch::Tensor;

use super::error::Error;

/// The features of some images, float32, on the CPU.
#[derive(Debug)]
pub struct ImageFeatures {
    /// The pooled features, `[num, pool]`. FID, KID, precision and recall use them.
    pub pool: Tensor,
    /// The spatial features, `[num, spatial]`. sFID uses them.
    pub spatial: Option<Tensor>,
    /// The logits, `[num, classes]`. The Inception Score uses their softmax.
    pub logits: Option<Tensor>,
}

/// A network that turns images into features. The features of an image do not depend on the other images of the batch.
pub trait FeatureExtractor: Debug {
    /// Returns what the features depend on besides the images.
    fn identity(&self) -> &ExtractorIdentity;

    /// Returns the channels that the network takes, 1 or 3. Pictures are converted to them.
    fn channels(&self) -> usize;

    /// Returns height and width of the images that the network takes, or `None` if it resizes them.
    fn image_size(&self) -> Option<usize>;

    /// Returns the images that the network takes.
    fn input(&self) -> NetworkInput {
        NetworkInput { channels: self.channels(), size: self.image_size() }
    }

    /// Computes the features of `images`, uint8 `[num, height, width, channels]` on the CPU. Grayscale images become
    /// color images where the network needs them.
    ///
    /// # Errors
    /// [`Error::Refused`] if the network cannot take images of this shape.
    fn extract(&self, images: &Tensor) -> Result<ImageFeatures, Error>;
}
