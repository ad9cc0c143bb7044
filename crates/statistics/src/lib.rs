//! Statistics of the features of images: the files that hold them, and what the features depend on.

mod error;
mod file;
mod given;
mod identity;

pub use error::Error;
pub use file::{SetSums, StatisticsFile};
pub use given::GivenStatistics;
pub use identity::ExtractorIdentity;
