//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode as ProcessExit;

use admiral_contract::signals::is_ignored;
use admiral_contract::{listen_address, print_error};
use clap::{CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::console::{Console, print};
use crate::drill::{DrillOptions, drill};
use crate::environment::Environment;
use crate::goodput::{Form, goodput};
use crate::run::{LaunchError, LaunchPlan, RunOptions, SWEPT, SampleOptions, doctor, dry_run, run, sweep_here};
use crate::template;

/// Starts runs of Admiral on many hosts under mpirun, diagnoses failures, and restarts the runs
#[derive(Debug, Parser)]
#[command(name = "admiral-launch", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a configuration on all ranks until it is finished, restarting it when it fails
    Run(Box<RunOptions>),
    /// Draw images with all ranks until all of them are stored, restarting what fails
    Sample(Box<SampleOptions>),
    /// Examine the hosts of a run as `run` does before it starts anything
    Doctor {
        #[command(flatten)]
        run: Box<RunOptions>,
        /// Also start all ranks once, to measure the speed of their all-reduce and to find slow links between them
        #[arg(long)]
        bandwidth: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Inject a fault into a short run of a configuration, and report whether it was noticed, named and repaired
    Drill(Box<DrillOptions>),
    /// Show the state of a run
    Status {
        /// The run's folder, that of a sampling job's launcher, or the URL of a run's checkpoints
        run: String,
        /// Repeat every second until the run has ended
        #[arg(long)]
        watch: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The program `admiral`; needed for URLs
        #[arg(long)]
        program: Option<PathBuf>,
    },
    /// Show what the time of a run was spent on: steps, start-up, waiting, failures, down time
    Goodput {
        /// The run's folder
        run: PathBuf,
        /// Print the table of each day, too
        #[arg(long, conflicts_with = "json")]
        days: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write what is known of a run as one HTML page: curves, incidents, the ledger of its time, samples, hosts
    Report {
        /// The run's folder
        run: PathBuf,
        /// The page
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Write a file that runs a configuration on a cluster, or watches the run, to standard output
    Template {
        /// The kind of file
        kind: template::TemplateKind,
        /// The configuration, a YAML file
        config: PathBuf,
        /// Override a field: --set launch.listen=localhost:9465
        #[arg(long = "set", value_name = "FIELD=VALUE")]
        overrides: Vec<String>,
        /// The number of hosts
        #[arg(long, default_value_t = 2)]
        hosts: usize,
        /// The number of GPUs, and ranks, of each host
        #[arg(long, default_value_t = 8)]
        gpus_per_host: usize,
        /// The container image
        #[arg(long, default_value = "registry.example.org/admiral:1")]
        image: String,
        /// Alerts: the time without a new step after which a run is stalled; without it, launch.stall_seconds of the
        /// configuration
        #[arg(long, value_name = "SECONDS")]
        stall_seconds: Option<u64>,
        /// Alerts: the time for which most conditions must hold before their alerts fire
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        for_seconds: u64,
        /// Prometheus: the time between two scrapes
        #[arg(long, value_name = "SECONDS", default_value_t = 15)]
        scrape_seconds: u64,
        /// The program `admiral`; without it, the one beside this program
        #[arg(long)]
        program: Option<PathBuf>,
    },
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
    /// The process that mpirun starts for each rank
    #[command(hide = true, alias = "attend")]
    Agent,
    /// Ends what is left of a launch on this host
    #[command(hide = true)]
    Sweep {
        /// The launch.
        launch_id: String,
        /// The process numbers of its mpirun daemons.
        daemons: Vec<i32>,
        /// Their session folders.
        #[arg(long = "session")]
        sessions: Vec<PathBuf>,
    },
}

/// Runs the program.
#[must_use]
pub fn main() -> ProcessExit {
    let environment = Environment::of_process();
    // mpirun starts a probe on each host. It is no subcommand, because clap would suggest it to users.
    if std::env::args_os().nth(1).is_some_and(|word| word == "probe") {
        return match crate::doctor::probe(&environment) {
            Ok(()) => ProcessExit::SUCCESS,
            Err(error) => failed(&LaunchError::system(error)),
        };
    }
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&LaunchError::system(error)),
    };
    let code = match cli.command {
        Command::Run(options) => {
            runtime.block_on(async { run_command(LaunchPlan::train(*options, &environment)?, &environment).await })
        }
        Command::Sample(options) => runtime.block_on(sample_command(*options, &environment)),
        Command::Doctor { run, bandwidth, json } => runtime.block_on(async {
            doctor(&LaunchPlan::train(*run, &environment)?, Console::new(&environment), json, bandwidth).await
        }),
        Command::Drill(options) => {
            let console = Console::new(&environment).with_ranks_on_stderr(options.json);
            runtime.block_on(async { drill(*options, &environment, console, stop_requests()?).await })
        }
        Command::Status { run, watch, json, program } => {
            let program = crate::facts::program(program.as_deref());
            crate::status::status(&run, &program, watch, json).map(|()| 0).map_err(LaunchError::config)
        }
        Command::Goodput { run, days, json } => {
            let form = match (json, days) {
                (true, _) => Form::Json,
                (false, true) => Form::Days,
                (false, false) => Form::All,
            };
            let shown = goodput(&run, form);
            shown.map(|text| print(&text)).map(|()| 0).map_err(LaunchError::config)
        }
        Command::Report { run, out } => crate::report::report(&run, &out).map(|()| 0).map_err(LaunchError::config),
        Command::Template {
            kind,
            config,
            overrides,
            hosts,
            gpus_per_host,
            image,
            stall_seconds,
            for_seconds,
            scrape_seconds,
            program,
        } => {
            let program = crate::facts::program(program.as_deref());
            let complete = |input: template::TemplateInput| {
                let configured = input.monitoring;
                let stall_seconds = stall_seconds.unwrap_or(configured.stall_seconds);
                let monitoring = template::Monitoring { stall_seconds, for_seconds, scrape_seconds, ..configured };
                template::TemplateInput { hosts, gpus_per_host, image, monitoring, ..input }
            };
            runtime.block_on(write_template(kind, &program, config, &overrides, complete))
        }
        Command::Completions { shell } => {
            let mut completions = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "admiral-launch", &mut completions);
            print(&String::from_utf8_lossy(&completions));
            Ok(0)
        }
        Command::Man { folder } => clap_mangen::generate_to(Cli::command(), &folder)
            .map(|()| 0)
            .map_err(|error| LaunchError::config(format!("{}: {error}; name a folder", folder.display()))),
        Command::Agent => runtime.block_on(crate::agent::run(&environment)).map(|()| 0).map_err(LaunchError::system),
        Command::Sweep { launch_id, daemons, sessions } => {
            print(&format!("{SWEPT}{}\n", sweep_here(&launch_id, &daemons, &sessions)));
            Ok(0)
        }
    };
    // Does not wait for a thread that hangs in a system call.
    runtime.shutdown_background();
    match code {
        Ok(code) => ProcessExit::from(code),
        Err(error) => failed(&error),
    }
}

fn failed(error: &LaunchError) -> ProcessExit {
    print_error(error);
    ProcessExit::from(error.code)
}

async fn write_template(
    kind: template::TemplateKind,
    program: &Path,
    config: PathBuf,
    overrides: &[String],
    complete: impl FnOnce(template::TemplateInput) -> template::TemplateInput,
) -> Result<u8, LaunchError> {
    let facts = crate::facts::query(program, &config, overrides).await.map_err(LaunchError::config)?;
    let input = complete(template::TemplateInput {
        name: config.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        run_folder: facts.config.run.folder.into(),
        data_path: facts.config.data.path.filter(|path| !path.is_empty()).map(PathBuf::from),
        steps: facts.config.training.steps,
        grace_seconds: facts.config.checkpoint.grace_seconds,
        hosts: 0,
        gpus_per_host: 0,
        image: String::new(),
        monitoring: template::Monitoring {
            run: facts.config.telemetry.listen.as_deref().and_then(listen_address),
            launcher: facts.config.launch.listen.as_deref().and_then(listen_address),
            stall_seconds: facts.config.launch.stall_seconds,
            ..template::Monitoring::default()
        },
        config,
    });
    print(&template::render(kind, &input).map_err(LaunchError::config)?);
    Ok(0)
}

async fn sample_command(options: SampleOptions, environment: &Environment) -> Result<u8, LaunchError> {
    let is_examination = options.doctor;
    let plan = LaunchPlan::sample(options, environment)?;
    if is_examination {
        return doctor(&plan, Console::new(environment), false, false).await;
    }
    run_command(plan, environment).await
}

async fn run_command(plan: LaunchPlan, environment: &Environment) -> Result<u8, LaunchError> {
    if plan.options.dry_run {
        print(&dry_run(&plan).await?);
        return Ok(0);
    }
    run(plan, Console::new(environment), stop_requests()?).await
}

/// Returns a channel with a message for each signal that asks the run to stop: from the terminal, an operator, or a
/// scheduler that warns. Signals that this process was told to ignore stay ignored, as SIGHUP under `nohup`.
fn stop_requests() -> Result<mpsc::UnboundedReceiver<()>, LaunchError> {
    let (send, receive) = mpsc::unbounded_channel();
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ];
    // All are checked before the first handler is installed.
    let heeded: Vec<SignalKind> = kinds.into_iter().filter(|kind| !is_ignored(kind.as_raw_value())).collect();
    for kind in heeded {
        let mut signals = signal(kind).map_err(LaunchError::system)?;
        let send = send.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if send.send(()).is_err() {
                    return;
                }
            }
        });
    }
    Ok(receive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_and_manual_pages_name_the_commands_for_users() {
        let completions = |shell| {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "admiral-launch", &mut text);
            String::from_utf8(text).expect("it is text")
        };
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            assert!(completions(shell).contains("goodput"), "{shell}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        clap_mangen::generate_to(Cli::command(), folder.path()).expect("it can be written");
        let has = |page: &str| folder.path().join(page).is_file();
        assert!(has("admiral-launch.1") && has("admiral-launch-run.1") && !has("admiral-launch-agent.1"));
    }
}
