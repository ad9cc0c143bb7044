//! What evaluation reads and writes besides networks: sets of images, stored features, statistics files and reports.

mod error;
mod given;
mod identity;
mod images;
mod measure;
mod parts;
mod report;
mod side;
mod statistics_file;

pub use error::Error;
pub use given::GivenStatistics;
pub use identity::ExtractorIdentity;
pub use images::{ImageSet, PictureShape, images_of_bytes};
pub use measure::{MeasureOptions, Side, measure};
pub use parts::{FeatureParts, FeatureSettings, FeatureTables, PART_IMAGES, digest_of_pixels};
pub use report::{MetricRow, REPORT_VERSION, Report, SideReport, warnings};
pub use side::OpenedSide;
pub use statistics_file::{SetSums, StatisticsFile};
