//! The values of a template.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::hosts::MAX_SLOTS_PER_HOST;

/// The most hosts of a run.
const MAX_HOSTS: usize = 65_536;

/// The run and the cluster of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateInput {
    /// The run's name, for people and the scheduler.
    pub name: String,
    /// The path of the configuration, as given.
    pub config: PathBuf,
    /// The run's folder. In pods, a relative path is below `/work`.
    pub run_folder: PathBuf,
    /// The folder of the images, if they are in a folder.
    pub data_path: Option<PathBuf>,
    /// The number of steps of the run.
    pub steps: u64,
    /// Seconds that a rank has to publish a checkpoint when it is told to stop.
    pub grace_seconds: u64,
    /// The number of hosts.
    pub hosts: usize,
    /// The number of GPUs, and ranks, of each host.
    pub gpus_per_host: usize,
    /// The container image.
    pub image: String,
    /// Where its metrics are, and when alerts fire.
    pub monitoring: Monitoring,
}

/// How Prometheus watches a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitoring {
    /// Where rank 0 serves metrics.
    pub run: Option<SocketAddr>,
    /// Where the launcher serves metrics.
    pub launcher: Option<SocketAddr>,
    /// A run without a new step for this long is stalled.
    pub stall_seconds: u64,
    /// The time between two scrapes.
    pub scrape_seconds: u64,
    /// A condition must hold for this long before its alert fires.
    pub for_seconds: u64,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self { run: None, launcher: None, stall_seconds: 300, scrape_seconds: 15, for_seconds: 60 }
    }
}

/// A value cannot be written into a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?}: {problem}")]
pub struct TemplateError {
    field: &'static str,
    value: String,
    problem: &'static str,
}

/// Refuses values that cannot be written into a template.
pub(super) fn check(input: &TemplateInput) -> Result<(), TemplateError> {
    let wrong = |field, value: &str, problem| Err(TemplateError { field, value: value.to_owned(), problem });
    if input.hosts == 0 {
        return wrong("the number of hosts", "0", "has to be at least 1");
    }
    if input.gpus_per_host == 0 {
        return wrong("the number of GPUs of a host", "0", "has to be at least 1");
    }
    if input.hosts > MAX_HOSTS {
        return wrong("the number of hosts", &input.hosts.to_string(), "is larger than 65536, which no cluster has");
    }
    if input.gpus_per_host > MAX_SLOTS_PER_HOST {
        return wrong(
            "the number of GPUs of a host",
            &input.gpus_per_host.to_string(),
            "is larger than 4096, the most ranks that a host takes",
        );
    }
    if input.monitoring.scrape_seconds == 0 {
        return wrong("the seconds between scrapes", "0", "have to be at least 1");
    }
    let is_image = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if !input.image.starts_with(|c: char| c.is_ascii_alphanumeric()) || !input.image.chars().all(is_image) {
        return wrong(
            "the image",
            &input.image,
            "is no name of a container image, such as registry.example.org/admiral:1",
        );
    }
    let paths = [
        ("the configuration", Some(&input.config)),
        ("run.folder", Some(&input.run_folder)),
        ("data.path", input.data_path.as_ref()),
    ];
    for (field, path) in paths.into_iter().filter_map(|(field, path)| Some((field, path?))) {
        match path.to_str() {
            Some(text) if !text.is_empty() && !text.contains(char::is_control) => {}
            Some(text) => return wrong(field, text, "is empty or has a control character in it"),
            None => return wrong(field, &path.to_string_lossy(), "is not in UTF-8"),
        }
    }
    Ok(())
}

/// Refuses a run without metrics that can be scraped.
pub(super) fn check_addresses(input: &TemplateInput) -> Result<(), TemplateError> {
    if input.monitoring.run.is_some() || input.monitoring.launcher.is_some() {
        return Ok(());
    }
    Err(TemplateError {
        field: "telemetry.listen and launch.listen",
        value: "null".to_owned(),
        problem: "the run serves no metrics; set at least one of them, as in --set \
                  telemetry.listen=localhost:9464 --set launch.listen=localhost:9465",
    })
}

/// Returns an input for tests.
#[cfg(test)]
pub(super) fn example() -> TemplateInput {
    TemplateInput {
        name: "ImageNet 256".to_owned(),
        config: "configs/it's own.yaml".into(),
        run_folder: "runs/own".into(),
        data_path: Some("/data/images".into()),
        steps: 100_000,
        grace_seconds: 90,
        hosts: 4,
        gpus_per_host: 8,
        image: "registry.example.org/admiral:1".to_owned(),
        monitoring: Monitoring { launcher: "127.0.0.1:9465".parse().ok(), ..Monitoring::default() },
    }
}
