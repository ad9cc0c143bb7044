//! `admiral sample`: draws images from a checkpoint, as a grid in one file or as a job of many images. The configuration
//! comes from the checkpoint.

mod bench;
mod classes;
mod grid;
mod job;
mod opened;
mod options;
mod prepared;
mod preset;
mod start;
mod sweep;

use admiral_comm::{Ending, ExitCode};

use crate::context::RankContext;

pub(super) use bench::bench;
pub(super) use classes::{check_range, table};
pub(super) use job::check_same;
pub(super) use opened::{check_scale, open_classifier};
pub(super) use options::GuidanceKind;
pub use options::{DrawingOptions, SampleOptions};
pub(super) use prepared::{load, load_forward, weights};
pub use sweep::SweepArguments;
pub(super) use sweep::{series, sweep};

/// Draws the images. Every rank calls it.
///
/// # Errors
/// When the images cannot be drawn or written. The [`Ending`] says whether the ranks leave together.
pub(super) fn run(options: &SampleOptions, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    match options.num {
        Some(num) => job::run(options, num, rank),
        None => grid::run(options, rank).map(|()| ExitCode::Finished),
    }
}
