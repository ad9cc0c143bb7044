//! `admiral evaluate`: compares sets of images by the paper's metrics.

mod compare;
mod features;
mod nearest;
mod options;
mod statistics;

use admiral_comm::{Ending, ExitCode, agree};

use crate::context::RankContext;
use crate::stop::{Stop, StopMessages};

pub(super) use compare::compared;
pub(super) use features::{Network, open_side, open_work};
pub use options::EvaluateArguments;
use options::EvaluateCommand;
pub(super) use options::NetworkOptions;

const MESSAGES: StopMessages = StopMessages {
    asked: "asked to stop: the features that are finished are kept",
    too_early: "asked to stop before the first image: there is nothing to keep",
    impatient: "interrupted a second time: leaving at once; the features that are finished are kept",
};

/// Evaluates. Every rank calls it.
///
/// # Errors
/// When the images cannot be read or compared. The [`Ending`] says whether the ranks leave together.
pub(super) fn run(arguments: &EvaluateArguments, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let stop = Stop::default();
    agree(rank.collective, stop.on_signals(MESSAGES), |_| ExitCode::Node)?;
    match &arguments.command {
        Some(EvaluateCommand::Statistics(options)) => statistics::run(options, &stop, rank),
        Some(EvaluateCommand::Merge(options)) => statistics::merge(options, rank),
        Some(EvaluateCommand::Nearest(options)) => nearest::run(options, &stop, rank),
        None => compare::run(&arguments.options, &stop, rank),
    }
}
