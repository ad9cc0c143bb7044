//! The command line.

use std::path::PathBuf;
use std::process::ExitCode as ProcessExit;

use admiral_comm::{Collective, Ending, agree, connect};
use admiral_config;
use admiral::device::Report;
use admiral_comm::exit::{ExitCode, say_error};
use admiral_comm::ledger;
use admiral::ops::host_memory;
use admiral_telemetry::{Terminal, init_logging};
use admiral::tools::{self, CheckpointCommand, Outcome};
use admiral::train::bench::{self, BenchOptions};
use admiral::train::bench_allreduce::{self, AllReduceBenchOptions};
use admiral::train::bench_checkpoint::{self, CheckpointBenchOptions};
use admiral::train::bench_loader::{self, LoaderBenchOptions};
use admiral::train::bench_ops::{self, OpsBenchOptions};
use admiral::train::plan::{self, PlanOptions};
use admiral::train::samples::{self, SampleOptions};
use admiral::train::{self, Resume, RunConfig, Stop};
use admiral::version::Versions;
use clap::{Args, Parser, Subcommand};

/// Trains and samples the diffusion models of "Diffusion Models Beat GANs on Image Synthesis".
#[derive(Parser)]
#[command(version, about)]
struct Cli {
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

#[derive(Args)]
struct ConfigArguments {
    /// The configuration, a YAML file
    config: PathBuf,
    /// Override a field: --set optimizer.learning_rate=2e-4
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    overrides: Vec<String>,
}

#[derive(Args)]
struct TrainArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Go on from a checkpoint: latest, auto (latest where there is one) or a step
    #[arg(long)]
    resume: Option<Resume>,
}

#[derive(Args)]
struct ShowArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Print JSON: the configuration, and under "derived" what follows from it
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print the whole effective configuration with what follows from it
    Show(ShowArguments),
}

/// A configuration that is named by an option.
#[derive(Args)]
struct ConfigOptions {
    /// The configuration, a YAML file
    #[arg(long)]
    config: PathBuf,
    /// Override a field: --set precision.mode=fp32
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    overrides: Vec<String>,
}

#[derive(Subcommand)]
enum BenchCommand {
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

fn main() -> ProcessExit {
    // SAFETY: nothing has run yet, so there is no other thread and no tensor.
    unsafe { host_memory::keep() };
    let code = match Cli::parse().command {
        Command::Train(arguments) => on_ranks(|collective, terminal| {
            let config = load(collective, &arguments.config.config, &arguments.config.overrides)?;
            let stop = Stop::default();
            agree(collective, stop.on_signals(), |_| ExitCode::Node)?;
            let resume = arguments.resume.unwrap_or(Resume::Fresh);
            train::run(config, resume, collective, terminal, &stop).map(train::Finish::exit_code)
        }),
        Command::Bench(BenchCommand::Step { config: ConfigOptions { config, overrides }, options }) => {
            on_ranks(|collective, _| {
                let config = load(collective, &config, &overrides)?;
                bench::step(config, &options, collective).map(|()| ExitCode::Finished)
            })
        }
        Command::Bench(BenchCommand::Ops(options)) => {
            alone(bench_ops::run(&options).map_err(|error| (error.exit_code(), error.into())))
        }
        Command::Bench(BenchCommand::Allreduce(options)) => {
            on_ranks(|collective, _| bench_allreduce::all_reduce(&options, collective).map(|()| ExitCode::Finished))
        }
        Command::Bench(BenchCommand::Loader { config: ConfigOptions { config, overrides }, options }) => {
            let config = config::load(&config, &overrides).map_err(|error| (ExitCode::Config, error.into()));
            alone(config.and_then(|config| {
                bench_loader::run(&config, &options).map_err(|error| (error.exit_code(), error.into()))
            }))
        }
        Command::Bench(BenchCommand::Checkpoint { config: ConfigOptions { config, overrides }, options }) => {
            on_ranks(|collective, _| {
                let config = load(collective, &config, &overrides)?;
                bench_checkpoint::checkpoint(&config, &options, collective).map(|()| ExitCode::Finished)
            })
        }
        Command::Sample(options) => alone(samples::run(&options).map_err(|error| (error.exit_code(), error.into()))),
        Command::Checkpoint(command) => match tools::run(&command) {
            // As diff(1) has it.
            Ok(Outcome::Different) => return ProcessExit::from(1),
            Ok(Outcome::Done) => ExitCode::Finished,
            Err(error) => alone(Err((error.exit_code(), error.into()))),
        },
        Command::Config(ConfigCommand::Show(arguments)) => alone(show(&arguments)),
        Command::Flops(arguments) => alone(flops(&arguments)),
        Command::Plan(options) => alone(plan::run(&options)),
        Command::Version { json } => alone(version(json)),
        Command::Device { json } => alone(device(json)),
    };
    ProcessExit::from(code as u8)
}

/// Runs what all ranks do together, and leaves with one message and one code.
fn on_ranks(work: impl FnOnce(&dyn Collective, &Terminal) -> Result<ExitCode, Ending>) -> ExitCode {
    ledger::open();
    let collective = match connect() {
        Ok(collective) => collective,
        Err(error) => {
            say_error(&error);
            return ExitCode::Node;
        }
    };
    let terminal = Terminal::stderr();
    let logging = init_logging(&terminal, collective.rank(), collective.world_size());
    ledger::warn();
    let ended = agree(&*collective, logging, |_| ExitCode::Config).and_then(|()| work(&*collective, &terminal));
    match ended {
        Ok(code) => code,
        Err(ending) => ending.leave(collective),
    }
}

/// Each rank reads the configuration; a rank that cannot, or that reads another than rank 0, is named.
fn load(collective: &dyn Collective, path: &std::path::Path, overrides: &[String]) -> Result<RunConfig, Ending> {
    let config: RunConfig = agree(collective, config::load(path, overrides), |_| ExitCode::Config)?;
    let text = serde_json::to_vec(&config).map_err(|error| Ending::alone(ExitCode::Bug, &error))?;
    let texts = collective.all_gather(&text).map_err(Ending::from)?;
    let same = match texts.iter().position(|other| *other != texts[0]) {
        None => Ok(()),
        Some(rank) => Err(format!(
            "rank {rank} reads another configuration from {} than rank 0; give every host the same file",
            path.display()
        )),
    };
    agree(collective, same, |_| ExitCode::Config)?;
    Ok(config)
}

/// Ends a command of a single process.
fn alone(result: Result<(), (ExitCode, anyhow::Error)>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::Finished,
        Err((code, error)) => {
            say_error(&error);
            code
        }
    }
}

fn read(arguments: &ConfigArguments) -> Result<RunConfig, (ExitCode, anyhow::Error)> {
    config::load(&arguments.config, &arguments.overrides).map_err(|error| (ExitCode::Config, error.into()))
}

fn derived(config: &RunConfig) -> Result<Vec<(String, String)>, (ExitCode, anyhow::Error)> {
    config.derived().map_err(refuse)
}

fn refuse(mistakes: Vec<config::Invalid>) -> (ExitCode, anyhow::Error) {
    let lines: Vec<String> = mistakes.into_iter().map(|m| format!("{}: {}", m.field, m.message)).collect();
    (ExitCode::Config, anyhow::anyhow!(lines.join("\n")))
}

fn show(arguments: &ShowArguments) -> Result<(), (ExitCode, anyhow::Error)> {
    let config = read(&arguments.config)?;
    if arguments.json {
        let derived = config.facts().map_err(refuse)?;
        return print_json(&serde_json::json!({ "config": config, "derived": derived }));
    }
    print!("{}", config::show(&config, &derived(&config)?));
    Ok(())
}

fn print_json(value: &impl serde::Serialize) -> Result<(), (ExitCode, anyhow::Error)> {
    let text = serde_json::to_string_pretty(value).map_err(|error| (ExitCode::Bug, error.into()))?;
    println!("{text}");
    Ok(())
}

fn version(json: bool) -> Result<(), (ExitCode, anyhow::Error)> {
    let versions = Versions::of_this_process().map_err(|error| (ExitCode::Bug, error.into()))?;
    if json {
        return print_json(&versions);
    }
    print!("{versions}");
    Ok(())
}

fn device(json: bool) -> Result<(), (ExitCode, anyhow::Error)> {
    let report = Report::of_this_machine().map_err(|error| (ExitCode::Bug, error.into()))?;
    if json {
        return print_json(&report);
    }
    print!("{report}");
    Ok(())
}

fn flops(arguments: &ConfigArguments) -> Result<(), (ExitCode, anyhow::Error)> {
    let config = read(arguments)?;
    for (name, value) in derived(&config)?.iter().take(4) {
        println!("{name:<34} {value:>22}");
    }
    Ok(())
}
