//! Features of images, and the metrics of the paper computed from them (the paper's section 2.2).

mod classifier;
mod error;
mod extract;
mod extractor;

pub use classifier::{ClassifierExtractor, check_classifier};
pub use error::Error;
pub use extract::{ExtractContext, Extracted, extract_missing};
pub use extractor::{FeatureExtractor, ImageFeatures};
