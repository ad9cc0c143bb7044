//! What features depend on.

use serde::{Deserialize, Serialize};

/// What features depend on besides the images. Features of different networks, or of the same network behind another
/// resize, cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtractorIdentity {
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

impl ExtractorIdentity {
    /// Returns a text that people can tell networks apart by.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{} {:.12}", self.network, self.weights)
    }

    /// Returns the names and widths of the tables of features that the network gives, in the order in which files hold them.
    #[must_use]
    pub fn tables(&self) -> Vec<(&'static str, usize)> {
        let optional = [("spatial", self.spatial), ("logits", self.classes)];
        let present = optional.into_iter().filter_map(|(name, width)| Some((name, width?)));
        [("pool", self.pool)].into_iter().chain(present).collect()
    }
}
