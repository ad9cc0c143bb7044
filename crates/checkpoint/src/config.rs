//! The `checkpoint` section of the configuration.

use std::path::Path;
use std::time::Duration;

use admiral_config::Invalid;
use admiral_storage::{CloudSettings, Location, StoreOptions};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::retention::Retention;

/// The smallest part of an upload that S3 and Google Cloud Storage accept, except for the last part.
const SMALLEST_PART_MEBIBYTES: u64 = 5;

/// The largest value of a number. Times of this many seconds do not overflow.
const MAX_NUMBER: u64 = 10_000_000;

/// The behavior when a save is due while the previous one is still being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenBusy {
    /// The save is skipped, which is logged and counted.
    #[default]
    Skip,
    /// Training waits for the previous save.
    Wait,
}

/// Where checkpoints are written, how, and which are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Where checkpoints are written: a folder, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`;
    /// null is `checkpoints` in the run's folder. Endpoints, accounts and keys are taken from the usual environment
    /// variables AWS_*, GOOGLE_* and AZURE_*.
    pub url: Option<String>,
    /// What to do when a save is due while the previous one is still being written: skip or wait.
    pub when_busy: WhenBusy,
    /// Seconds after which a save fails, for writing the checkpoint and again for publishing it.
    pub deadline_seconds: u64,
    /// Number of failed saves in a row after which the run ends with exit code 69.
    pub max_failures: u64,
    /// Seconds between being asked to stop and being killed, as set in your scheduler or mpirun. The run warns at its
    /// start if a save is likely to take longer.
    pub grace_seconds: u64,
    /// Seconds that one request to an object store may take before it is retried.
    pub request_timeout_seconds: u64,
    /// Size of the parts of an upload in MiB. A file may have 10,000 parts.
    pub part_mebibytes: u64,
    /// Number of newest checkpoints to keep; null keeps all. Older ones are deleted only after the newest has been read
    /// back and verified. The one that the run was resumed from is never deleted.
    pub keep_last: Option<u64>,
    /// Number of checkpoints with the lowest FID to keep besides the newest; 0 turns this off. As many newer ones that have
    /// not been evaluated yet are kept too. Only with keep_last.
    pub keep_best: u64,
    /// Checkpoints of steps that are a multiple of this are never deleted; 0 turns this off.
    pub keep_every: u64,
    /// Steps whose checkpoints are never deleted.
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
            keep_best: 0,
            keep_every: 0,
            keep_steps: Vec::new(),
        }
    }
}

impl CheckpointConfig {
    /// Returns the invalid fields, with their paths from the top of the file.
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
            } else if value > MAX_NUMBER {
                refuse(field, format!("is {value}; at most {MAX_NUMBER}"));
            }
        }
        if self.keep_last == Some(0) {
            refuse("checkpoint.keep_last", "must be at least 1; null keeps all checkpoints".into());
        }
        if self.keep_best > MAX_NUMBER {
            refuse("checkpoint.keep_best", format!("is {}; at most {MAX_NUMBER}", self.keep_best));
        } else if self.keep_best > 0 && self.keep_last.is_none() {
            refuse("checkpoint.keep_best", "needs checkpoint.keep_last, without which all checkpoints are kept".into());
        }
        if let Some(Ok(Location::S3 { .. } | Location::Gcs { .. })) = location
            && self.part_mebibytes < SMALLEST_PART_MEBIBYTES
        {
            refuse(
                "checkpoint.part_mebibytes",
                format!("is {}; the store takes no parts below {SMALLEST_PART_MEBIBYTES} MiB", self.part_mebibytes),
            );
        }
        if self.part_mebibytes > 1024 {
            refuse("checkpoint.part_mebibytes", format!("is {}; more than 1024 gains nothing", self.part_mebibytes));
        }
        mistakes
    }

    /// Returns the location of the checkpoints of a run whose other files are in `run_folder`.
    ///
    /// # Errors
    /// [`Error::Url`] if the URL is not a location.
    pub fn location(&self, run_folder: &Path) -> Result<Location, Error> {
        match &self.url {
            Some(url) => Ok(Location::parse(url)?),
            None => Ok(Location::Folder(run_folder.join("checkpoints"))),
        }
    }

    /// Returns the options of the store.
    #[must_use]
    pub fn store_options(&self, clouds: &CloudSettings) -> StoreOptions {
        StoreOptions {
            request_timeout: Duration::from_secs(self.request_timeout_seconds),
            // An operation fails before the deadline of its save, because the error of the deadline has no cause.
            patience: self.deadline() * 7 / 8,
            part_bytes: usize::try_from(self.part_mebibytes << 20).unwrap_or(usize::MAX),
            clouds: clouds.clone(),
        }
    }

    /// Returns the time after which a save fails.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_seconds)
    }

    /// Returns which checkpoints are kept.
    #[must_use]
    pub fn retention(&self) -> Retention {
        Retention {
            keep_last: self.keep_last,
            keep_best: self.keep_best,
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
    fn the_default_location_is_in_the_run_folder() {
        let location = CheckpointConfig::default().location(Path::new("/runs/a")).unwrap();
        assert_eq!(location, Location::Folder("/runs/a/checkpoints".into()));
    }

    #[test]
    fn an_invalid_url_is_refused() {
        assert_eq!(CheckpointConfig::default().validate(), []);
        let config = CheckpointConfig { url: Some("ftp://bucket/x".into()), ..CheckpointConfig::default() };
        let invalid = config.validate();
        assert_eq!(invalid.len(), 1);
        assert_eq!(invalid[0].field, "checkpoint.url");
        assert!(invalid[0].message.contains("ftp://"), "{}", invalid[0].message);
    }

    #[test]
    fn invalid_numbers_are_refused() {
        let fields = |config: CheckpointConfig| -> Vec<String> {
            config.validate().into_iter().map(|mistake| mistake.field).collect()
        };
        let default = CheckpointConfig::default;
        assert_eq!(fields(CheckpointConfig { keep_last: Some(0), ..default() }), ["checkpoint.keep_last"]);
        assert_eq!(fields(CheckpointConfig { keep_best: 1, ..default() }), ["checkpoint.keep_best"]);
        assert!(fields(CheckpointConfig { keep_best: 1, keep_last: Some(1), ..default() }).is_empty());
        assert_eq!(fields(CheckpointConfig { max_failures: 0, ..default() }), ["checkpoint.max_failures"]);
        let small_parts = |url: &str| CheckpointConfig { url: Some(url.into()), part_mebibytes: 1, ..default() };
        assert_eq!(fields(small_parts("s3://bucket/x")), ["checkpoint.part_mebibytes"]);
        assert_eq!(fields(small_parts("gs://bucket/x")), ["checkpoint.part_mebibytes"]);
        assert!(fields(small_parts("az://container/x")).is_empty());
        assert!(fields(small_parts("a/folder")).is_empty());
    }
}
