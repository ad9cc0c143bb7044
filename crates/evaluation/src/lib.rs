//! What evaluation reads and writes besides networks: sets of images, stored features and reports.

mod check;
mod error;
mod images;
mod measure;
mod parts;
mod report;
mod side;
mod warnings;

pub use check::{ImageCount, NetworkInput, check_comparison, check_images, check_nearest};
pub use error::Error;
pub use images::{Classes, ImageSet, PictureShape, images_of_bytes};
pub use measure::{MeasureOptions, Side, measure};
pub use parts::{FeatureParts, FeatureSettings, FeatureTables, PART_IMAGES, digest_of_pixels};
pub use report::{MetricRow, REPORT_VERSION, Report, SideReport};
pub use side::OpenedSide;
