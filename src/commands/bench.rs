//! `admiral bench`.

use admiral_comm::ExitCode;
use clap::Subcommand;

use crate::bench::allreduce::{self, AllReduceBenchOptions};
use crate::bench::checkpoint::{self, CheckpointBenchOptions};
use crate::bench::loader::{self, LoaderBenchOptions};
use crate::bench::ops::{self, OpsBenchOptions};
use crate::bench::step::{self, BenchOptions};
use crate::environment::Environment;
use crate::gpus::Gpus;

use super::config::{ConfigOptions, read};
use super::ranks::{alone, load_on_ranks, on_ranks};

/// What is measured.
#[derive(Subcommand)]
pub(super) enum BenchCommand {
    /// Time training steps: the median, images a second, and where the time goes
    Step {
        #[command(flatten)]
        config: ConfigOptions,
        #[command(flatten)]
        options: BenchOptions,
    },
    /// Time the fused operations against libtorch's and against what the machine allows
    Ops(OpsBenchOptions),
    /// Time sums over the ranks and the ways between them, and name the slow ones; under mpirun
    Allreduce(AllReduceBenchOptions),
    /// Read, decode and crop the configured images as training would: images a second by threads
    Loader {
        #[command(flatten)]
        config: ConfigOptions,
        #[command(flatten)]
        options: LoaderBenchOptions,
    },
    /// Save and read a network's training state: the stall of training, the speed, the memory
    Checkpoint {
        #[command(flatten)]
        config: ConfigOptions,
        #[command(flatten)]
        options: CheckpointBenchOptions,
    },
}

/// Measures and prints.
pub(super) fn run(command: &BenchCommand, environment: &Environment) -> ExitCode {
    match command {
        BenchCommand::Step { config: ConfigOptions { config, overrides }, options } => on_ranks(environment, |rank| {
            let config = load_on_ranks(rank.collective, config, overrides)?;
            step::step(config, options, rank).map(|()| ExitCode::Finished)
        }),
        BenchCommand::Ops(options) => {
            let gpus = Gpus::new(&environment.gpu);
            alone(ops::run(options, &gpus).map_err(|error| (error.exit_code(), error.into())))
        }
        BenchCommand::Allreduce(options) => {
            on_ranks(environment, |rank| allreduce::all_reduce(options, rank).map(|()| ExitCode::Finished))
        }
        BenchCommand::Loader { config: ConfigOptions { config, overrides }, options } => alone(
            read(config, overrides)
                .and_then(|config| loader::run(&config, options).map_err(|error| (error.exit_code(), error.into()))),
        ),
        BenchCommand::Checkpoint { config: ConfigOptions { config, overrides }, options } => {
            on_ranks(environment, |rank| {
                let config = load_on_ranks(rank.collective, config, overrides)?;
                checkpoint::checkpoint(&config, options, rank).map(|()| ExitCode::Finished)
            })
        }
    }
}
