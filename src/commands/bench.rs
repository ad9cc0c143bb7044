//! `admiral bench`: measurements of speed.

use admiral_comm::ExitCode;
use clap::Subcommand;

use crate::bench::allreduce::{self, AllReduceBenchOptions};
use crate::bench::checkpoint::{self, CheckpointBenchOptions};
use crate::bench::evaluate::{self, EvaluateBenchOptions};
use crate::bench::loader::{self, LoaderBenchOptions};
use crate::bench::ops::{self, OpsBenchOptions};
use crate::bench::sample::SampleBenchOptions;
use crate::bench::solvers::{self, SolverBenchOptions};
use crate::bench::step::{self, BenchOptions};
use crate::environment::Environment;
use crate::gpus::Gpus;

use super::config::{ConfigOptions, read};
use super::ranks::{alone, load_on_ranks, on_ranks};
use super::sample::{self, DrawingOptions};

/// The benchmarks.
#[derive(Subcommand)]
pub(super) enum BenchCommand {
    /// Time training steps: the median, images per second, and the parts of a step
    Step {
        #[command(flatten)]
        config: ConfigOptions,
        #[command(flatten)]
        options: BenchOptions,
    },
    /// Time the fused operations against libtorch's and against the machine's roofline
    Ops(OpsBenchOptions),
    /// Time the all-reduce and the links between ranks, and name the slow links; under mpirun
    Allreduce(AllReduceBenchOptions),
    /// Read, decode and crop the configured images as training does: images per second by threads
    Loader {
        #[command(flatten)]
        config: ConfigOptions,
        #[command(flatten)]
        options: LoaderBenchOptions,
    },
    /// Draw images: images per second, and the time of networks, guidance, solver, noise and writing
    Sample {
        /// A checkpoint's folder, or a folder of checkpoints or a run's folder (then the newest): a path or a bucket's URL
        checkpoint: String,
        #[command(flatten)]
        drawing: Box<DrawingOptions>,
        #[command(flatten)]
        options: SampleBenchOptions,
    },
    /// Compare the samplers with exact solutions: the error, and the order with which it falls
    Solvers(SolverBenchOptions),
    /// Compute features of random images by the Inception network: images per second
    Evaluate(EvaluateBenchOptions),
    /// Save and read a network's training state: the stall of training, the speed and the memory
    Checkpoint {
        #[command(flatten)]
        config: ConfigOptions,
        #[command(flatten)]
        options: CheckpointBenchOptions,
    },
}

/// Runs a benchmark and prints its measurements.
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
        BenchCommand::Loader { config: ConfigOptions { config, overrides }, options } => {
            alone(read(config, overrides).and_then(|config| {
                let stores = environment.store_options();
                loader::run(&config, options, &stores).map_err(|error| (error.exit_code(), error.into()))
            }))
        }
        BenchCommand::Sample { checkpoint, drawing, options } => {
            on_ranks(environment, |rank| sample::bench(checkpoint, drawing, options, rank).map(|()| ExitCode::Finished))
        }
        BenchCommand::Solvers(options) => {
            alone(solvers::run(options).map_err(|error| (error.exit_code(), error.into())))
        }
        BenchCommand::Evaluate(options) => {
            let gpus = Gpus::new(&environment.gpu);
            alone(evaluate::run(options, &gpus).map_err(|error| (error.exit_code(), error.into())))
        }
        BenchCommand::Checkpoint { config: ConfigOptions { config, overrides }, options } => {
            on_ranks(environment, |rank| {
                let config = load_on_ranks(rank.collective, config, overrides)?;
                checkpoint::checkpoint(&config, options, rank).map(|()| ExitCode::Finished)
            })
        }
    }
}
