//! The `checkpoint` section of a run's configuration.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::location::Location;
use crate::config::Invalid;

/// Where checkpoints go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Where checkpoints are written: a folder or `s3://bucket/prefix`; null is `checkpoints` in the run's folder.
    /// S3 takes its endpoint, region and keys from the usual AWS_* variables of the environment.
    pub url: Option<String>,
}

impl CheckpointConfig {
    /// What cannot work, with field paths from the top of the file.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        self.url
            .as_deref()
            .and_then(|url| Location::parse(url).err())
            .map(|error| Invalid::new("checkpoint.url", error.to_string()))
            .into_iter()
            .collect()
    }

    /// The place that is meant in a run whose own files lie in `run_folder`.
    ///
    /// # Errors
    /// [`super::Error::Url`] where the URL names no place.
    pub fn location(&self, run_folder: &Path) -> Result<Location, super::Error> {
        match &self.url {
            Some(url) => Location::parse(url),
            None => Ok(Location::Folder(run_folder.join("checkpoints"))),
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
        let config = CheckpointConfig { url: Some("gs://bucket/x".into()) };
        let invalid = config.validate();
        assert_eq!(invalid.len(), 1);
        assert_eq!(invalid[0].field, "checkpoint.url");
        assert!(invalid[0].message.contains("gs://"), "{}", invalid[0].message);
    }
}
