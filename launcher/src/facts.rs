//! What the launcher needs to know of a run's configuration, as the program `admiral` itself reads it: one reader, one
//! set of rules, one message for a mistake.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use admiral_contract::LaunchConfig;
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

/// The program loads libtorch, perhaps over a network, and reads a file.
const PATIENCE: Duration = Duration::from_secs(60);

/// Of a run's configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Facts {
    /// The effective configuration.
    pub config: Config,
    /// What follows from it.
    pub derived: Derived,
}

/// The sections that matter here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// The run itself.
    pub run: RunSection,
    /// The images.
    pub data: DataSection,
    /// How long the run is.
    pub training: TrainingSection,
    /// Where checkpoints go.
    pub checkpoint: CheckpointSection,
    /// How the run is watched.
    pub launch: LaunchConfig,
}

/// Of the section `run`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RunSection {
    /// As it was given.
    pub folder: String,
    /// auto, cpu or cuda.
    pub device: String,
}

/// Of the section `data`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct DataSection {
    /// Where images lie, as it was given.
    pub path: Option<String>,
}

/// Of the section `training`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TrainingSection {
    /// Samples of a step over all ranks.
    pub global_batch: u64,
    /// Samples of a pass on one rank, at most.
    pub microbatch: u64,
    /// The last step.
    pub steps: u64,
    /// Steps between checkpoints.
    pub save_interval: u64,
}

/// Of the section `checkpoint`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CheckpointSection {
    /// Seconds between being asked to stop and being killed.
    pub grace_seconds: u64,
    /// Checkpoints that are kept.
    pub keep_last: Option<u64>,
}

/// What follows from a configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Derived {
    /// Of the network.
    pub parameters: u64,
    /// The size of a checkpoint.
    pub checkpoint_bytes: u64,
    /// Where checkpoints go: a folder or a URL.
    pub checkpoint_url: String,
    /// The run's folder, from the root.
    pub run_folder: PathBuf,
}

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The program is not there.
    #[error("{program} cannot be started: {source}; build it, or say where it is with --program")]
    Program {
        /// What was tried.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not come to an end.
    #[error(
        "{program} config show said nothing within {seconds} s: is the disk that it, its libtorch or the configuration \
         lies on well? Try it by hand"
    )]
    Late {
        /// What was started.
        program: PathBuf,
        /// For how long it was waited for.
        seconds: u64,
    },
    /// The configuration is wrong; the words are the program's.
    #[error("{0}")]
    Refused(String),
    /// The program says something else.
    #[error("{program} is not of this launcher's build ({detail}); use both of one build")]
    Foreign {
        /// Which program.
        program: PathBuf,
        /// What it said.
        detail: String,
    },
}

/// Asks `program` for the configuration in `config` with the fields in `overrides` set. The program ends when nobody
/// waits for it any more.
///
/// # Errors
/// When it is wrong, with the program's own message.
pub async fn ask(program: &Path, config: &Path, overrides: &[String]) -> Result<Facts, FactsError> {
    ask_within(PATIENCE, program, config, overrides).await
}

async fn ask_within(
    patience: Duration,
    program: &Path,
    config: &Path,
    overrides: &[String],
) -> Result<Facts, FactsError> {
    let mut command = Command::new(program);
    command.args(["config", "show"]).arg(config).arg("--json").stdin(Stdio::null()).kill_on_drop(true);
    for field in overrides {
        command.arg("--set").arg(field);
    }
    let output = timeout(patience, command.output())
        .await
        .map_err(|_| FactsError::Late { program: program.to_owned(), seconds: patience.as_secs() })?
        .map_err(|source| FactsError::Program { program: program.to_owned(), source })?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let message = said.trim().strip_prefix("error: ").unwrap_or(said.trim()).to_owned();
        return Err(match output.status.code() {
            Some(64) => FactsError::Refused(message),
            _ => FactsError::Foreign { program: program.to_owned(), detail: message },
        });
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| FactsError::Foreign { program: program.to_owned(), detail: error.to_string() })
}

/// The program `admiral` that belongs to this one: `wanted`, or the one beside it.
#[must_use]
pub fn program(wanted: Option<&Path>) -> PathBuf {
    if let Some(path) = wanted {
        return std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    }
    std::env::current_exe().unwrap_or_default().with_file_name("admiral")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_admiral_is_named() {
        let ask = async |program: &str| {
            ask(program.as_ref(), "c.yaml".as_ref(), &[]).await.expect_err("it is none").to_string()
        };
        let error = ask("/nowhere/admiral").await;
        assert!(error.starts_with("/nowhere/admiral cannot be started"), "{error}");
        let error = ask("/bin/true").await;
        assert!(error.starts_with("/bin/true is not of this launcher's build"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("admiral");
        let text = folder.path().join("text");
        std::fs::write(&text, "#!/bin/sh\nexec sleep 60\n").expect("it can be written");
        // By a process that is gone then: a child of another test may still hold what this one has open for writing.
        let installed = Command::new("install").args(["-m", "755"]).args([&text, &program]).status().await;
        assert!(installed.expect("install").success());
        let asked = ask_within(Duration::from_millis(50), &program, "c.yaml".as_ref(), &[]).await;
        assert!(matches!(asked, Err(FactsError::Late { .. })), "{asked:?}");
    }
}
