//! The parts of a run's configuration that the launcher needs. The program `admiral` reads the configuration, so that
//! there is one parser, one set of rules, and one message for each mistake.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use admiral_contract::{LaunchConfig, Notify};
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

/// The program loads libtorch, perhaps over a network, and reads a file.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A run's configuration and what follows from it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Facts {
    /// The effective configuration.
    pub config: Config,
    /// Derived values.
    pub derived: Derived,
    /// Values that are hidden in `config`.
    #[serde(default)]
    pub secrets: Secrets,
}

/// Values that a configuration does not show.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct Secrets {
    /// `launch.notify`.
    pub notify: Option<Notify>,
}

/// The sections that the launcher needs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// The section `run`.
    pub run: RunSection,
    /// The section `data`.
    pub data: DataSection,
    /// The section `training`.
    pub training: TrainingSection,
    /// The section `checkpoint`.
    pub checkpoint: CheckpointSection,
    /// The section `launch`.
    pub launch: LaunchConfig,
    /// The section `telemetry`.
    #[serde(default)]
    pub telemetry: TelemetrySection,
}

/// The section `telemetry`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct TelemetrySection {
    /// Where rank 0 serves metrics.
    #[serde(default)]
    pub listen: Option<String>,
}

/// The section `run`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RunSection {
    /// The run's folder, as given.
    pub folder: String,
    /// `auto`, `cpu` or `cuda`.
    pub device: String,
}

/// The section `data`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct DataSection {
    /// The place of the images, as given.
    pub path: Option<String>,
}

/// The section `training`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TrainingSection {
    /// The number of samples of a step over all ranks.
    pub global_batch: u64,
    /// The largest number of samples of one pass on one rank.
    pub microbatch: u64,
    /// The last step.
    pub steps: u64,
    /// The number of steps between checkpoints.
    pub save_interval: u64,
}

/// The section `checkpoint`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CheckpointSection {
    /// Seconds from a request to stop until ranks are killed.
    pub grace_seconds: u64,
    /// The number of checkpoints that are kept.
    pub keep_last: Option<u64>,
    /// The number of checkpoints with the lowest FID that are kept besides.
    #[serde(default)]
    pub keep_best: u64,
}

/// Values that follow from a configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Derived {
    /// The number of the network's parameters.
    pub parameters: u64,
    /// The size of a checkpoint in bytes.
    pub checkpoint_bytes: u64,
    /// The checkpoints' place: a folder or a URL.
    pub checkpoint_url: String,
    /// The run's folder as an absolute path.
    pub run_folder: PathBuf,
}

/// The configuration is not known.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The program cannot be started.
    #[error("{program} cannot be started: {source}; build it, or say where it is with --program")]
    Program {
        /// The path that was tried.
        program: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The program takes too long.
    #[error(
        "{program} config show said nothing within {seconds} s: is the disk that it, its libtorch or the configuration \
         lies on well? Try it by hand"
    )]
    Late {
        /// The program.
        program: PathBuf,
        /// The time after which it was given up.
        seconds: u64,
    },
    /// The configuration is wrong; the message is the program's.
    #[error("{0}")]
    Refused(String),
    /// The program's answer has another form.
    #[error("{program} is not of this launcher's build ({detail}); use both of one build")]
    Foreign {
        /// The program.
        program: PathBuf,
        /// Its message, or the parse error.
        detail: String,
    },
}

/// Asks `program` for the configuration in `config` with the fields in `overrides` set. If this future is dropped, the
/// program is killed.
///
/// # Errors
/// If the configuration is wrong, with the program's own message, or if the program does not answer as expected.
pub async fn query(program: &Path, config: &Path, overrides: &[String]) -> Result<Facts, FactsError> {
    query_within(TIMEOUT, program, config, overrides).await
}

async fn query_within(
    patience: Duration,
    program: &Path,
    config: &Path,
    overrides: &[String],
) -> Result<Facts, FactsError> {
    let mut command = Command::new(program);
    command.args(["config", "show"]).arg(config).args(["--json", "--secrets"]).stdin(Stdio::null()).kill_on_drop(true);
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

/// Returns the path of the program `admiral`: `wanted`, or the one beside this program.
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
    async fn a_program_that_is_not_admiral_is_named() {
        let query = async |program: &str| {
            query(program.as_ref(), "c.yaml".as_ref(), &[]).await.expect_err("it is none").to_string()
        };
        let error = query("/nowhere/admiral").await;
        assert!(error.starts_with("/nowhere/admiral cannot be started"), "{error}");
        let error = query("/bin/true").await;
        assert!(error.starts_with("/bin/true is not of this launcher's build"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_given_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("admiral");
        let text = folder.path().join("text");
        std::fs::write(&text, "#!/bin/sh\nexec sleep 60\n").expect("it can be written");
        // Another process installs it and is gone then: a child of another test may still have a file open for writing
        // that this process wrote.
        let installed = Command::new("install").args(["-m", "755"]).args([&text, &program]).status().await;
        assert!(installed.expect("install").success());
        let asked = query_within(Duration::from_millis(50), &program, "c.yaml".as_ref(), &[]).await;
        assert!(matches!(asked, Err(FactsError::Late { .. })), "{asked:?}");
    }
}
