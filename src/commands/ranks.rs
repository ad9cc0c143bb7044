//! Runs commands on all ranks or in a single process, and ends them with one message and one exit code.

use std::path::Path;

use admiral_comm::{Collective, CollectiveError, Ending, ExitCode, agree, connect, open_ledger, print_error};
use admiral_telemetry::{LogSettings, Terminal, init_logging};

use crate::context::RankContext;
use crate::environment::Environment;
use crate::gpus::Gpus;
use crate::run_config::RunConfig;

/// The error of a command of a single process, with its exit code.
pub(super) type CommandError = (ExitCode, anyhow::Error);

/// Runs `work` on every rank of the run that this process belongs to.
pub(super) fn on_ranks(
    environment: &Environment,
    work: impl FnOnce(RankContext<'_>) -> Result<ExitCode, Ending>,
) -> ExitCode {
    // First, because it tells the launcher that the process has started. Connecting to the other ranks may take long.
    let (ledger, ledger_error) = open_ledger(environment.ledger.as_deref());
    let collective = match connect(environment.mpi, environment.task, ledger.clone()) {
        Ok(collective) => collective,
        Err(error @ CollectiveError::AloneAmongTasks { .. }) => {
            print_error(&error);
            return ExitCode::Config;
        }
        Err(error) => {
            print_error(&error);
            return ExitCode::Node;
        }
    };
    let terminal = Terminal::stderr();
    let logging = init_logging(&terminal, collective.rank(), collective.world_size(), &environment.log);
    if let Some(error) = ledger_error {
        tracing::warn!("{error}; the launcher cannot see where it stands");
    }
    let gpus = Gpus::new(&environment.gpu);
    let ended = agree(&*collective, logging, |_| ExitCode::Config).and_then(|()| {
        work(RankContext { collective: &*collective, environment, ledger: &ledger, gpus: &gpus, terminal: &terminal })
    });
    match ended {
        Ok(code) => code,
        Err(ending) => ending.leave(collective),
    }
}

/// Sets up the log of a command of a single process. Unless the environment says otherwise, it has warnings only: such a
/// command prints its result.
///
/// # Errors
/// When a setting of the environment is invalid, with the exit code.
pub(super) fn log_alone(environment: &Environment) -> Result<(), CommandError> {
    let LogSettings { format, filter } = environment.log.clone();
    let settings = LogSettings { format, filter: filter.or_else(|| Some("warn".to_owned())) };
    init_logging(&Terminal::stderr(), 0, 1, &settings).map_err(|error| (ExitCode::Config, error.into()))
}

/// Ends a command of a single process: prints its error, and returns its exit code.
pub(super) fn alone(result: Result<(), CommandError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::Finished,
        Err((code, error)) => {
            print_error(&error);
            code
        }
    }
}

/// Reads the configuration on every rank.
///
/// # Errors
/// When a rank cannot read it or reads another configuration than rank 0, with the same error on every rank. The
/// message names the rank.
pub(super) fn load_on_ranks(
    collective: &dyn Collective,
    path: &Path,
    overrides: &[String],
) -> Result<RunConfig, Ending> {
    let config: RunConfig = agree(collective, admiral_config::load(path, overrides), |_| ExitCode::Config)?;
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

/// Prints a value as JSON.
///
/// # Errors
/// When it cannot be written as JSON, with the exit code.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| (ExitCode::Bug, error.into()))?;
    println!("{text}");
    Ok(())
}
