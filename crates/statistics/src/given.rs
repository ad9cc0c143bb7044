//! Statistics that a file gives in place of images.

use admiral_metrics::adm::AdmStatistics;

use crate::identity::ExtractorIdentity;

/// Statistics that a file gives.
#[derive(Debug, Clone)]
pub struct GivenStatistics {
    /// Those of the pooled features.
    pub pool: AdmStatistics,
    /// Those of the spatial features.
    pub spatial: Option<AdmStatistics>,
    /// The number of images that they were computed from, if the file says it.
    pub num: Option<u64>,
    /// The network of the features, if the file says it.
    pub extractor: Option<ExtractorIdentity>,
    /// The digest of the images that they were computed from, if the file says it.
    pub pixels: Option<String>,
    /// The SHA-256 of the values, as hexadecimal digits.
    pub sha256: String,
}
