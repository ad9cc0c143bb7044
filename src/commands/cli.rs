//! The commands and what each of them calls.

use std::process::ExitCode as ProcessExit;

use admiral_comm::ExitCode;
use clap::{Parser, Subcommand};

use crate::environment::Environment;
use crate::gpus::Gpus;

use super::bench::{self, BenchCommand};
use super::checkpoint::{self, CheckpointCommand, Outcome};
use super::config::{self, ConfigArguments, ConfigCommand};
use super::plan::{self, PlanOptions};
use super::ranks::{alone, on_ranks};
use super::sample::{self, SampleOptions};
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
    /// Train; under mpirun on as many ranks as it starts
    Train(TrainArguments),
    /// Draw images from a checkpoint into a grid
    Sample(SampleOptions),
    /// Look at checkpoints, verify, compare and tidy them; take them from other programs' files, and give them
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Look at configurations
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print what a network costs: parameters, FLOPs, images a V100-second in theory
    Flops(ConfigArguments),
    /// Print what a run will cost: memory of a GPU, time of a step, communication, days, checkpoints
    Plan(PlanOptions),
    /// Print which Admiral this is, and which libtorch and MPI it runs on
    Version {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what this machine computes with: GPUs, libraries, which kernels and which attention, and what is missing
    Device {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure speed
    #[command(subcommand)]
    Bench(BenchCommand),
}

impl Cli {
    /// Runs the command. Returns the exit code of the process.
    #[must_use]
    pub fn run(self, environment: &Environment) -> ProcessExit {
        let code = match self.command {
            Command::Train(arguments) => on_ranks(environment, |rank| train::run(&arguments, rank)),
            Command::Bench(command) => bench::run(&command, environment),
            Command::Sample(options) => {
                alone(sample::run(&options, environment).map_err(|error| (error.exit_code(), error.into())))
            }
            Command::Checkpoint(command) => match checkpoint::run(&command, &environment.s3) {
                // As diff(1).
                Ok(Outcome::Different) => return ProcessExit::from(1),
                Ok(Outcome::Done) => ExitCode::Finished,
                Err(error) => alone(Err((error.exit_code(), error.into()))),
            },
            Command::Config(command) => alone(config::run(&command)),
            Command::Flops(arguments) => alone(flops::run(&arguments)),
            Command::Plan(options) => alone(plan::run(&options)),
            Command::Version { json } => alone(version::run(json)),
            Command::Device { json } => alone(device::run(json, &Gpus::new(&environment.gpu))),
        };
        ProcessExit::from(code as u8)
    }
}
