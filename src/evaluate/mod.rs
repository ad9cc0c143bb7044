//! Features of images, and the metrics of the paper computed from them (the paper's section 2.2).

mod error;
mod extractor;
pub mod inception;

pub use error::Error;
pub use extractor::{FeatureExtractor, Identity, ImageFeatures};
pub use inception::Inception;
