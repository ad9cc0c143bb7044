//! What evaluation reads and writes besides networks: sets of images, stored features, statistics files and reports.

mod error;
mod identity;
mod images;
mod parts;

pub use error::Error;
pub use identity::ExtractorIdentity;
pub use images::{ImageSet, PictureShape};
pub use parts::{FeatureParts, FeatureSettings, FeatureTables, PART_IMAGES, digest_of_pixels};
