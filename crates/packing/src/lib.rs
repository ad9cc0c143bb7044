//! Data sets as a whole: packing them into shards, surveys of what they hold, and the bottleneck of loading them.
//!
//! [`pack`] writes the images of any source into tar shards. [`survey`] looks at the images of a source, and
//! [`contact_sheet`] shows some of them in one picture. [`diagnose`] compares measured speeds with those that training
//! needs.

mod diagnosis;
mod encode;
mod error;
mod fetching;
mod ordered;
mod output;
mod pack;
mod sample;
mod settings;
mod shard;
mod sheet;
mod state;
mod survey;

pub use diagnosis::{Bottleneck, Diagnosis, Measured, Remedy, diagnose};
pub use error::Error;
pub use fetching::{Chosen, Fetching, measure_fetching};
pub use output::Output;
pub use pack::{Progress, Summary, pack};
pub use settings::{OnBroken, Settings, StoredAs};
pub use sheet::contact_sheet;
pub use state::Broken;
pub use survey::{ClassSize, Range, Survey, survey};
