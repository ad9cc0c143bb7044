//! Errors of files of statistics.

use admiral_metrics::MetricError;

/// Why statistics cannot be read, merged or computed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The statistics of two files cannot be merged.
    #[error("{0}")]
    Refused(String),
    /// A file has another form than expected, or is damaged.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What was found, and what to do.
        reason: String,
    },
    /// The values are not those of features.
    #[error("statistics cannot be computed: {0}")]
    Metric(#[from] MetricError),
}
