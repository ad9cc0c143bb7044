//! `admiral train`.

use admiral_comm::{Ending, ExitCode, agree};
use clap::Args;

use crate::context::RankContext;
use crate::train::{Finish, Resume, Stop, run as train};

use super::config::ConfigArguments;
use super::ranks::load_on_ranks;

/// What is trained.
#[derive(Args)]
pub(super) struct TrainArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Go on from a checkpoint: latest, auto (latest where there is one) or a step
    #[arg(long)]
    resume: Option<Resume>,
}

/// Trains. Every rank calls it.
///
/// # Errors
/// How the ranks are to leave.
pub(super) fn run(arguments: &TrainArguments, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let config = load_on_ranks(rank.collective, &arguments.config.config, &arguments.config.overrides)?;
    let stop = Stop::default();
    agree(rank.collective, stop.on_signals(), |_| ExitCode::Node)?;
    train(config, arguments.resume.unwrap_or(Resume::Fresh), rank, &stop).map(Finish::exit_code)
}
