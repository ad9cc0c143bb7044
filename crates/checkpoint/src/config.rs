//! The `checkpoint` section of a run's configuration.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::retention::Retention;
use admiral_config::Invalid;
use admiral_storage::{Location, S3Settings, StoreOptions};

/// The smallest part that S3 takes in an upload, but for the last.
const SMALLEST_S3_PART_MEBIBYTES: u64 = 5;

/// Far beyond what anybody means, and far below what the clock can count.
const LARGEST_NUMBER: u64 = 10_000_000;

/// What happens to a save that is due while the one before it is still on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenBusy {
    /// It is left out, and this is said and counted.
    #[default]
    Skip,
    /// Training waits for the one before.
    Wait,
}

/// Where checkpoints go, how they are written, and which are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Where checkpoints are written: a folder or `s3://bucket/prefix`; null is `checkpoints` in the run's folder.
    /// S3 takes its endpoint, region and keys from the usual AWS_* variables of the environment.
    pub url: Option<String>,
    /// A save that is due while the one before it is still being written: skip or wait.
    pub when_busy: WhenBusy,
    /// Seconds that writing a checkpoint may take, and then publishing it, before the save has failed.
    pub deadline_seconds: u64,
    /// Saves that may fail one after the other; the run ends with exit code 69 at the last of them.
    pub max_failures: u64,
    /// Seconds between being asked to stop and being killed, as your scheduler or mpirun gives them. The run warns at
    /// its start where a save is likely to take longer.
    pub grace_seconds: u64,
    /// Seconds that one request to an object store may take before it is tried again.
    pub request_timeout_seconds: u64,
    /// Size of an upload's parts in MiB. A file may have 10,000.
    pub part_mebibytes: u64,
    /// Newest checkpoints that are kept; null keeps all. Older ones are deleted only when the newest has been read
    /// back and verified, and never the one that the run was resumed from.
    pub keep_last: Option<u64>,
    /// Checkpoints of steps that this divides are kept for good; 0 names none.
    pub keep_every: u64,
    /// Steps whose checkpoints are kept for good.
    pub keep_steps: Vec<u64>,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            url: None,
            when_busy: WhenBusy::Skip,
            deadline_seconds: 1800,
            max_failures: 3,
            grace_seconds: 60,
            request_timeout_seconds: 60,
            part_mebibytes: 16,
            keep_last: None,
            keep_every: 0,
            keep_steps: Vec::new(),
        }
    }
}

impl CheckpointConfig {
    /// What cannot work, with field paths from the top of the file.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        let mut mistakes = Vec::new();
        let mut refuse = |field: &str, message: String| mistakes.push(Invalid::new(field, message));
        let location = self.url.as_deref().map(Location::parse);
        if let Some(Err(error)) = &location {
            refuse("checkpoint.url", Error::from(error.clone()).to_string());
        }
        for (field, value) in [
            ("checkpoint.deadline_seconds", self.deadline_seconds),
            ("checkpoint.max_failures", self.max_failures),
            ("checkpoint.request_timeout_seconds", self.request_timeout_seconds),
            ("checkpoint.part_mebibytes", self.part_mebibytes),
        ] {
            if value == 0 {
                refuse(field, "must be at least 1".into());
            } else if value > LARGEST_NUMBER {
                refuse(field, format!("is {value}; at most {LARGEST_NUMBER}"));
            }
        }
        if self.keep_last == Some(0) {
            refuse("checkpoint.keep_last", "must be at least 1; null keeps all checkpoints".into());
        }
        if matches!(location, Some(Ok(Location::S3 { .. }))) && self.part_mebibytes < SMALLEST_S3_PART_MEBIBYTES {
            refuse(
                "checkpoint.part_mebibytes",
                format!("is {}; S3 takes no parts below {SMALLEST_S3_PART_MEBIBYTES} MiB", self.part_mebibytes),
            );
        }
        if self.part_mebibytes > 1024 {
            refuse("checkpoint.part_mebibytes", format!("is {}; more than 1024 gains nothing", self.part_mebibytes));
        }
        mistakes
    }

    /// The place that is meant in a run whose own files lie in `run_folder`.
    ///
    /// # Errors
    /// [`Error::Url`] where the URL names no place.
    pub fn location(&self, run_folder: &Path) -> Result<Location, Error> {
        match &self.url {
            Some(url) => Ok(Location::parse(url)?),
            None => Ok(Location::Folder(run_folder.join("checkpoints"))),
        }
    }

    /// How the store is talked to.
    #[must_use]
    pub fn store_options(&self, s3: &S3Settings) -> StoreOptions {
        StoreOptions {
            request_timeout: Duration::from_secs(self.request_timeout_seconds),
            // An operation gives up before its save is given up, which could not say why.
            patience: self.deadline() * 7 / 8,
            part_bytes: usize::try_from(self.part_mebibytes << 20).unwrap_or(usize::MAX),
            s3: s3.clone(),
        }
    }

    /// The time that a save has.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_seconds)
    }

    /// Which checkpoints are kept.
    #[must_use]
    pub fn retention(&self) -> Retention {
        Retention {
            keep_last: self.keep_last,
            keep_every: self.keep_every,
            keep_steps: self.keep_steps.iter().copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_default_lies_in_the_run_folder() {
        let location = CheckpointConfig::default().location(Path::new("/runs/a")).unwrap();
        assert_eq!(location, Location::Folder("/runs/a/checkpoints".into()));
    }

    #[test]
    fn a_url_that_names_no_place_is_refused_by_its_field() {
        assert_eq!(CheckpointConfig::default().validate(), []);
        let config = CheckpointConfig { url: Some("gs://bucket/x".into()), ..CheckpointConfig::default() };
        let invalid = config.validate();
        assert_eq!(invalid.len(), 1);
        assert_eq!(invalid[0].field, "checkpoint.url");
        assert!(invalid[0].message.contains("gs://"), "{}", invalid[0].message);
    }

    #[test]
    fn numbers_that_cannot_work_are_refused_by_their_fields() {
        let fields = |config: CheckpointConfig| -> Vec<String> {
            config.validate().into_iter().map(|mistake| mistake.field).collect()
        };
        let default = CheckpointConfig::default;
        assert_eq!(fields(CheckpointConfig { keep_last: Some(0), ..default() }), ["checkpoint.keep_last"]);
        assert_eq!(fields(CheckpointConfig { max_failures: 0, ..default() }), ["checkpoint.max_failures"]);
        let small_parts = |url: &str| CheckpointConfig { url: Some(url.into()), part_mebibytes: 1, ..default() };
        assert_eq!(fields(small_parts("s3://bucket/x")), ["checkpoint.part_mebibytes"]);
        assert!(fields(small_parts("a/folder")).is_empty());
    }
}
