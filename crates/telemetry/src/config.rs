//! The section `telemetry` of a run's configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use admiral_config::Invalid;
use admiral_contract::{LISTEN_ADDRESS, TEXTFILE_NAME, listen_address};

/// Event files, the progress line and metrics of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Whether to write event files for TensorBoard.
    pub tensorboard: bool,
    /// Folder of the event files; null means `tensorboard` in the run's folder.
    pub tensorboard_folder: Option<PathBuf>,
    /// Seconds between writes of the event file: what TensorBoard shows is at most this old.
    pub flush_seconds: f64,
    /// Seconds between progress lines when the output is not a terminal.
    pub progress_seconds: f64,
    /// Whether to append the metrics to metrics.jsonl in the run's folder.
    pub metrics_file: bool,
    /// Where rank 0 serves metrics over HTTP: localhost:9464, which only its machine reaches, or an IP address with a
    /// port; null means nowhere.
    pub listen: Option<String>,
    /// The file of metrics for node_exporter's textfile collector on the host of rank 0, which ends in .prom; null means
    /// none.
    pub textfile: Option<PathBuf>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            tensorboard: true,
            tensorboard_folder: None,
            flush_seconds: 10.0,
            progress_seconds: 10.0,
            metrics_file: true,
            listen: None,
            textfile: None,
        }
    }
}

impl TelemetryConfig {
    /// Returns every invalid value. An empty list means that the section is valid.
    pub fn validate(&self) -> Vec<Invalid> {
        let intervals =
            [("flush_seconds", self.flush_seconds), ("progress_seconds", self.progress_seconds)].into_iter();
        let mut mistakes: Vec<Invalid> = intervals
            .filter(|(_, seconds)| !(0.1..=86_400.0).contains(seconds))
            .map(|(field, seconds)| {
                Invalid::new(format!("telemetry.{field}"), format!("is {seconds}: between 0.1 and 86400 seconds"))
            })
            .collect();
        if self.listen.as_deref().is_some_and(|text| listen_address(text).is_none()) {
            mistakes.push(Invalid::new("telemetry.listen", LISTEN_ADDRESS));
        }
        if self.textfile.as_ref().is_some_and(|path| path.extension().is_none_or(|end| end != "prom")) {
            mistakes.push(Invalid::new("telemetry.textfile", TEXTFILE_NAME));
        }
        mistakes
    }

    /// Returns the folder of the event files of the run in `run_folder`, or `None` if event files are off.
    pub fn event_folder(&self, run_folder: &Path) -> Option<PathBuf> {
        self.tensorboard.then(|| self.tensorboard_folder.clone().unwrap_or_else(|| run_folder.join("tensorboard")))
    }

    /// Returns the time between writes of the event file. The value must pass [`Self::validate`].
    pub fn flush_interval(&self) -> Duration {
        Duration::try_from_secs_f64(self.flush_seconds).unwrap_or(Duration::from_secs(10))
    }

    /// Returns the time between plain progress lines. The value must pass [`Self::validate`].
    pub fn progress_interval(&self) -> Duration {
        Duration::try_from_secs_f64(self.progress_seconds).unwrap_or(Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_write_into_the_run_folder() {
        let config = TelemetryConfig::default();
        assert_eq!(config.validate(), []);
        assert_eq!(config.event_folder(Path::new("runs/a")).unwrap(), Path::new("runs/a/tensorboard"));
    }

    #[test]
    fn event_files_go_to_the_given_folder_or_are_off() {
        let config = TelemetryConfig { tensorboard_folder: Some("logs".into()), ..Default::default() };
        assert_eq!(config.event_folder(Path::new("runs/a")).unwrap(), Path::new("logs"));
        assert_eq!(TelemetryConfig { tensorboard: false, ..config }.event_folder(Path::new("runs/a")), None);
    }

    #[test]
    fn invalid_addresses_and_files_are_reported() {
        let config = TelemetryConfig { listen: Some(":9464".into()), textfile: Some("a".into()), ..Default::default() };
        let fields: Vec<_> = config.validate().into_iter().map(|mistake| mistake.field).collect();
        assert_eq!(fields, ["telemetry.listen", "telemetry.textfile"]);
    }

    #[test]
    fn invalid_intervals_are_reported() {
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let config = TelemetryConfig { flush_seconds: seconds, ..Default::default() };
            assert_eq!(config.validate()[0].field, "telemetry.flush_seconds");
        }
    }
}
