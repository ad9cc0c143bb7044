//! The commands, and the dispatch to their functions.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode as ProcessExit;

use admiral_comm::ExitCode;
use clap::{CommandFactory, Parser, Subcommand};

use crate::environment::Environment;
use crate::gpus::Gpus;

use super::bench::{self, BenchCommand};
use super::checkpoint::{self, CheckpointCommand, Outcome};
use super::config::{self, ConfigArguments, ConfigCommand};
use super::data::{self, DataCommand};
use super::encode::{self, EncodeOptions};
use super::evaluate::{self, EvaluateArguments};
use super::interpolate::{self, InterpolateOptions};
use super::new::{self, NewOptions};
use super::nll::{self, NllOptions};
use super::plan::{self, PlanOptions};
use super::ranks::{alone, log_alone, on_ranks};
use super::replay::{self, ReplayOptions};
use super::sample::{self, SampleOptions, SweepArguments};
use super::train::{self, TrainArguments};
use super::{device, flops, version};

/// Trains and samples the diffusion models of "Diffusion Models Beat GANs on Image Synthesis".
#[derive(Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a network; under mpirun, on all ranks that it starts
    Train(TrainArguments),
    /// Take a step that a run recorded in its black box again, in one process, and find its first values that are not finite
    Replay(ReplayOptions),
    /// Draw images from a checkpoint: a grid, or with --num many images on all ranks that mpirun starts
    Sample(Box<SampleOptions>),
    /// Draw the same images with different settings, and compare them: a job for each combination, a table and a picture
    Sweep(SweepArguments),
    /// Encode images to latents, from which `sample --latents` draws them again; on all ranks that mpirun starts
    Encode(EncodeOptions),
    /// Draw images between pairs of images; on all ranks that mpirun starts
    Interpolate(InterpolateOptions),
    /// Evaluate the likelihood of images in bits per dimension; on all ranks that mpirun starts
    Nll(NllOptions),
    /// Compare sets of images: FID, sFID, Inception Score, precision, recall, KID; on all ranks that mpirun starts
    Evaluate(Box<EvaluateArguments>),
    /// List, show, verify, compare, delete, import and export checkpoints
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Pack images into shards, show what a data set holds, find what limits loading
    #[command(subcommand)]
    Data(DataCommand),
    /// Look at images, and write a configuration for training on them
    New(NewOptions),
    /// Print configurations, and what is doubtful in them
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the cost of a network: parameters, FLOPs, theoretical images per V100-second
    Flops(ConfigArguments),
    /// Print the cost of a run: memory of a GPU, time of a step, communication, days, checkpoints
    Plan(PlanOptions),
    /// Print the versions of Admiral, libtorch and MPI
    Version {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print this machine's GPUs, libraries, kernels and attention, and what is missing for GPUs
    Device {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure speed
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Write the completions of this program for a shell to standard output
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of this program into a folder
    Man {
        /// The folder, which exists
        folder: PathBuf,
    },
}

impl Command {
    /// Whether the command runs in a single process, without ranks.
    fn is_alone(&self) -> bool {
        match self {
            Self::Evaluate(arguments) => arguments.alone().is_some(),
            Self::Checkpoint(_) | Self::Data(_) | Self::New(_) | Self::Config(_) | Self::Flops(_) | Self::Plan(_) => {
                true
            }
            _ => false,
        }
    }
}

impl Cli {
    /// Runs the command. Returns the exit code of the process.
    #[must_use]
    pub fn run(self, environment: &Environment) -> ProcessExit {
        // Commands on ranks set it up when they know their rank.
        if self.command.is_alone()
            && let Err(error) = log_alone(environment)
        {
            return ProcessExit::from(alone(Err(error)) as u8);
        }
        let code = match self.command {
            Command::Train(arguments) => on_ranks(environment, |rank| train::run(&arguments, rank)),
            Command::Replay(options) => on_ranks(environment, |rank| replay::run(&options, rank)),
            Command::Bench(command) => bench::run(&command, environment),
            Command::Sample(options) => on_ranks(environment, |rank| sample::run(&options, rank)),
            Command::Sweep(arguments) => on_ranks(environment, |rank| sample::sweep(&arguments, rank)),
            Command::Encode(options) => on_ranks(environment, |rank| encode::run(&options, rank)),
            Command::Interpolate(options) => on_ranks(environment, |rank| interpolate::run(&options, rank)),
            Command::Nll(options) => on_ranks(environment, |rank| nll::run(&options, rank)),
            Command::Evaluate(arguments) => match arguments.alone() {
                Some(options) => alone(evaluate::weights(options)),
                None => on_ranks(environment, |rank| evaluate::run(&arguments, rank)),
            },
            Command::Checkpoint(command) => match checkpoint::run(&command, &environment.clouds) {
                // The exit code of diff(1).
                Ok(Outcome::Different) => return ProcessExit::from(1),
                Ok(Outcome::Done) => ExitCode::Finished,
                Err(error) => alone(Err((error.exit_code(), error.into()))),
            },
            Command::Data(command) => alone(data::run(&command, environment)),
            Command::New(options) => alone(new::run(&options, &environment.store_options())),
            Command::Config(command) => match config::run(&command, &environment.store_options()) {
                Ok(true) => return ProcessExit::from(1),
                Ok(false) => ExitCode::Finished,
                Err(error) => alone(Err(error)),
            },
            Command::Flops(arguments) => alone(flops::run(&arguments)),
            Command::Plan(options) => alone(plan::run(&options)),
            Command::Completions { shell } => print_completions(shell),
            Command::Man { folder } => alone(write_manual(&folder)),
            Command::Version { json } => alone(version::run(json)),
            Command::Device { json } => alone(device::run(json, &Gpus::new(&environment.gpu))),
        };
        ProcessExit::from(code as u8)
    }
}

/// Writes the completions of a shell to standard output.
fn print_completions(shell: clap_complete::Shell) -> ExitCode {
    let mut completions = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "admiral", &mut completions);
    // The reader may be gone.
    let _ = std::io::stdout().write_all(&completions);
    ExitCode::Finished
}

/// Writes a manual page for each command to a folder.
fn write_manual(folder: &std::path::Path) -> Result<(), (ExitCode, anyhow::Error)> {
    clap_mangen::generate_to(Cli::command(), folder)
        .map_err(|error| (ExitCode::Config, anyhow::anyhow!("{}: {error}; name a folder", folder.display())))
}
