//! Errors of reading and converting weights.

use std::path::PathBuf;

/// Why weights cannot be read or converted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file has none of the three formats.
    #[error(
        "{} is no file of Inception weights: {reason}. PyTorch state dicts, safetensors and TensorFlow's \
         classify_image_graph_def.pb are read",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead, or the reason why it is not read.
        reason: String,
    },
    /// The file is truncated, or its parts contradict each other.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file has weights of another network.
    #[error("{} does not hold the Inception network of 2015-12-05: {reason}", path.display())]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// The first differences.
        reason: String,
    },
    /// A weight cannot be used.
    #[error("{}: {tensor} holds {value} at index {index}; the file is damaged", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The index of the value in row-major order.
        index: usize,
        /// The value.
        value: f32,
    },
    /// The file to write exists with other content.
    #[error("{} exists and holds something else; choose another name or remove it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
}
