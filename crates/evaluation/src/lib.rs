//! What evaluation reads and writes besides networks: sets of images, stored features and reports.

mod error;
mod images;
mod measure;
mod parts;
mod report;
mod side;

pub use error::Error;
pub use images::{ImageSet, PictureShape, images_of_bytes};
pub use measure::{MeasureOptions, Side, measure};
pub use parts::{FeatureParts, FeatureSettings, FeatureTables, PART_IMAGES, digest_of_pixels};
pub use report::{MetricRow, REPORT_VERSION, Report, SideReport, warnings};
pub use side::OpenedSide;
