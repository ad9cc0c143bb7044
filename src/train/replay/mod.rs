//! Takes a recorded step again in one process, and finds its first values that are not finite.

mod divisions;
mod finder;
mod finding;
mod pass;
mod ranks;
mod report;
mod run;
mod sample_files;

pub use report::{ReplayReport, ReportText};
pub use run::{ReplayRequest, replay};
