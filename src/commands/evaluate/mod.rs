//! `admiral evaluate`: compares sets of images by the paper's metrics.

mod compare;
mod features;
mod nearest;
mod options;
mod statistics;
mod weights;

use admiral_comm::{Ending, ExitCode, agree};
use clap::{Args, Subcommand};

use crate::context::RankContext;
use crate::evaluate::Error;
use crate::stop::{Stop, StopMessages};

use super::sample::series;

pub(super) use compare::with_features;
pub(super) use features::{Network, open_side, open_work};
use nearest::NearestOptions;
pub(super) use options::{EvaluateOptions, NetworkOptions};
use options::{MergeOptions, StatisticsOptions};
use weights::WeightsOptions;
pub(super) use weights::run as weights;

impl EvaluateArguments {
    /// Returns the options of the command that needs no ranks, if it is asked for.
    pub(super) fn alone(&self) -> Option<&WeightsOptions> {
        match &self.command {
            Some(EvaluateCommand::Weights(options)) => Some(options),
            _ => None,
        }
    }
}

const MESSAGES: StopMessages = StopMessages {
    asked: "asked to stop: the features that are finished are kept",
    too_early: "asked to stop before the first image: there is nothing to keep",
    impatient: "interrupted a second time: leaving at once; the features that are finished are kept",
    saves: false,
};

/// The arguments of `admiral evaluate`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct EvaluateArguments {
    #[command(subcommand)]
    command: Option<EvaluateCommand>,
    #[command(flatten)]
    options: EvaluateOptions,
}

/// The commands beside the comparison of two sets.
#[derive(Debug, Clone, Subcommand)]
enum EvaluateCommand {
    /// Compute the statistics of images once, for later comparisons; on all ranks that mpirun starts
    Statistics(StatisticsOptions),
    /// Merge files of statistics of different images into one
    Merge(MergeOptions),
    /// Tell what a file of Inception weights is, with its fingerprint, and convert it to safetensors
    Weights(WeightsOptions),
    /// Show the training images nearest to samples, and find copies; on all ranks that mpirun starts
    Nearest(NearestOptions),
}

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
        // It runs in one process, without ranks.
        Some(EvaluateCommand::Weights(_)) => Ok(ExitCode::Finished),
        None => compare(&arguments.options, &stop, rank),
    }
}

/// Compares two sets, or the images of a run's checkpoints with a reference.
fn compare(options: &EvaluateOptions, stop: &Stop, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    // The command line requires both.
    let (Some(samples), Some(reference)) = (&options.samples, &options.reference) else {
        let missing = Err(Error::Refused("give the samples and --reference".into()));
        return agree(rank.collective, missing, Error::exit_code);
    };
    match options.every {
        Some(every) => series(options, samples, reference, every, stop, rank),
        None => compare::run(options, samples, reference, stop, rank),
    }
}
