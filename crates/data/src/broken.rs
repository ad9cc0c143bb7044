//! The description of an image that cannot be used.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use admiral_containers::Fetched;
use admiral_storage::hex;

use super::source::ImageSource;

/// An image that cannot be read or decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenImage {
    /// Its name and class, without the place of the source.
    pub image: String,
    /// What is wrong, with the place of the image.
    pub reason: String,
    /// The number of bytes that were read; null if none could be read.
    pub length: Option<u64>,
    /// The SHA-256 of these bytes, in lower-case hexadecimal.
    pub sha256: Option<String>,
}

impl BrokenImage {
    /// Describes the image `item`, which cannot be used for `reason`. Reads its bytes once more.
    pub(crate) fn of(source: &dyn ImageSource, item: u64, reason: String) -> Self {
        let bytes = source.fetch(item).ok().map(|fetched| match fetched {
            Fetched::File(bytes) | Fetched::Pixels { bytes, .. } => bytes,
        });
        Self {
            image: source.entry(item),
            reason,
            length: bytes.as_ref().map(|bytes| bytes.len() as u64),
            sha256: bytes.map(|bytes| hex(Sha256::digest(bytes))),
        }
    }
}
