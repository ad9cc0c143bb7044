//! Features of images, and the metrics of the paper computed from them (the paper's section 2.2).

mod classifier;
mod error;
mod extract;
mod extractor;
pub mod inception;
mod open;
mod work;

pub use classifier::ClassifierExtractor;
pub use error::Error;
pub use extract::{Done, ExtractContext, Extracted, append_features, extract_missing, missing_parts, parts_of};
pub use extractor::{FeatureExtractor, ImageFeatures};
pub use inception::Inception;
pub use open::FeatureSource;
pub use work::create_work;
