//! Networks that turn images into features.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::error::Error;

/// What features depend on besides the images. Features of different networks, or of the same network behind another
/// resize, cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The kind of network, such as `inception-2015` or `classifier`.
    pub network: String,
    /// The SHA-256 of the weights, as hexadecimal digits.
    pub weights: String,
    /// How images come to the size of the network, such as `tf1-bilinear-299`, or `none`.
    pub resize: String,
    /// The number of pooled features of an image.
    pub pool: usize,
    /// The number of spatial features of an image, if the network has them.
    pub spatial: Option<usize>,
    /// The number of classes, if the weights have a last layer.
    pub classes: Option<usize>,
}

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
pub trait FeatureExtractor {
    /// Returns what the features depend on besides the images.
    fn identity(&self) -> &Identity;

    /// Computes the features of `images`, uint8 `[num, height, width, channels]` on the CPU. Grayscale images become
    /// color images where the network needs them.
    ///
    /// # Errors
    /// [`Error::Refused`] if the network cannot take images of this shape.
    fn extract(&self, images: &Tensor) -> Result<ImageFeatures, Error>;
}
