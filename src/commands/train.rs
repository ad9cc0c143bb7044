//! `admiral train`: trains a network.

use admiral_comm::{Ending, ExitCode, agree};
use clap::Args;

use crate::context::RankContext;
use crate::stop::{Stop, StopMessages};
use crate::train::{Finish, Resume, run as train};

use super::config::ConfigArguments;
use super::ranks::load_on_ranks;

/// The arguments of `admiral train`.
#[derive(Args)]
pub(super) struct TrainArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Resume from a checkpoint: latest, auto (latest if there is one) or a step
    #[arg(long)]
    resume: Option<Resume>,
}

const MESSAGES: StopMessages = StopMessages {
    asked: "asked to stop: writing a checkpoint after this step",
    too_early: "asked to stop before the first step: there is nothing to save",
    impatient: "interrupted a second time: leaving without a checkpoint",
    saves: true,
};

/// Trains. Every rank calls it.
///
/// # Errors
/// When the run cannot start or cannot continue. The [`Ending`] says whether the ranks leave together.
pub(super) fn run(arguments: &TrainArguments, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let config = load_on_ranks(rank.collective, &arguments.config.config, &arguments.config.overrides)?;
    let stop = Stop::default();
    agree(rank.collective, stop.on_signals(MESSAGES), |_| ExitCode::Node)?;
    train(config, arguments.resume.unwrap_or(Resume::Fresh), rank, &stop).map(Finish::exit_code)
}
