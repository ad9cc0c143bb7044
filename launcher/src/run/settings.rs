//! What the launcher has to know about a job, and checks and texts that follow from it.

use std::path::PathBuf;

use admiral_contract::{LaunchConfig, Notify, world_sizes};

use super::error::LaunchError;
use super::options::LaunchOptions;
use crate::facts::Facts;
use crate::job::Work;
use crate::shell::quoted;

/// What the launcher has to know about a job: from the configuration of a training run, or from the command line of a
/// sampling job.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the ranks do.
    pub work: Work,
    /// The folder of the launcher's files.
    pub run_folder: PathBuf,
    /// The folder or URL to which the ranks write checkpoints or images.
    pub store: String,
    /// How standstills are detected, and how often the job is restarted.
    pub limits: LaunchConfig,
    /// The number of steps between checkpoints, if there are any.
    pub save_interval: Option<u64>,
    /// Seconds from a request to stop until ranks are killed.
    pub grace_seconds: u64,
    /// Whether the ranks use GPUs if there are any.
    pub uses_gpus: bool,
    /// Whether the ranks need GPUs.
    pub requires_gpus: bool,
    /// Files that must be identical on every host.
    pub files: Vec<PathBuf>,
    /// Files or folders that every host must have.
    pub places: Vec<PathBuf>,
    /// The size of a checkpoint in bytes, if the job writes any.
    pub checkpoint_bytes: Option<u64>,
    /// The largest number of checkpoints that are stored at the same time.
    pub kept_checkpoints: u64,
}

impl Settings {
    /// Returns the settings of the training run with this configuration, whose file is `config`.
    pub(super) fn of_training(facts: Facts, config: PathBuf) -> Self {
        let kept_checkpoints = kept_checkpoints(&facts);
        let Facts { config: fields, derived, secrets } = facts;
        let absolute = |path: String| std::path::absolute(&path).unwrap_or_else(|_| path.into());
        Self {
            work: Work::Train { global_batch: fields.training.global_batch, microbatch: fields.training.microbatch },
            run_folder: derived.run_folder,
            store: derived.checkpoint_url,
            limits: LaunchConfig { notify: secrets.notify, ..fields.launch },
            save_interval: Some(fields.training.save_interval).filter(|&steps| steps > 0),
            grace_seconds: fields.checkpoint.grace_seconds,
            uses_gpus: fields.run.device != "cpu",
            requires_gpus: fields.run.device == "cuda",
            files: vec![config],
            places: fields.data.path.filter(|path| !path.is_empty()).map(absolute).into_iter().collect(),
            checkpoint_bytes: Some(derived.checkpoint_bytes),
            kept_checkpoints,
        }
    }

    /// Returns the timeouts of the job, for people.
    pub(super) fn timeouts(&self) -> String {
        let times = self.limits.timeouts();
        let stop = match self.work {
            Work::Train { .. } => "a checkpoint on request has",
            Work::Sample => "ranks that are asked to stop have",
        };
        format!(
            "no progress for {} s is a standstill; hosts have {} s to come up; a host that is silent for {} s is lost; \
             a group is gone after {} s or ended by force; {stop} {} s",
            times.stall.as_secs(),
            times.start.as_secs(),
            times.silence.as_secs(),
            times.group_down.as_secs(),
            self.grace_seconds,
        )
    }

    /// Applies the options of the command line that override the configuration.
    ///
    /// # Errors
    /// If one of them is invalid.
    pub(super) fn with_options(mut self, options: &LaunchOptions) -> Result<Self, LaunchError> {
        if let Some(notify) = &options.notify {
            self.limits.notify = Some(Notify::of_option(notify));
        }
        if options.dead_man_seconds.is_some() {
            self.limits.dead_man_seconds = options.dead_man_seconds;
        }
        check_limits(&self.limits)?;
        Ok(self)
    }

    /// Returns who is told about what, for people.
    pub(super) fn notifications(&self) -> String {
        let who = match self.limits.notify.as_ref().map(Notify::masked) {
            None => "nobody".to_owned(),
            Some(Notify::Webhook(url)) => url,
            Some(Notify::Command(words)) => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        };
        let silence = match self.limits.dead_man_seconds {
            Some(seconds) => format!("silence after {seconds} s without a step"),
            None => "silence is not reported".to_owned(),
        };
        format!("{who}; {silence}")
    }

    /// Refuses a number of ranks that cannot share the work.
    ///
    /// # Errors
    /// If they cannot, with the numbers of ranks that can.
    pub(super) fn check_world(&self, world: usize) -> Result<(), LaunchError> {
        if self.work.largest_world(world) == Some(world) {
            return Ok(());
        }
        let Work::Train { global_batch, microbatch } = self.work else {
            return Err(LaunchError::config("a run has at least one rank"));
        };
        Err(LaunchError::config(format!(
            "training.global_batch {global_batch} in passes of {microbatch} cannot be divided over {world} ranks; these \
             numbers of ranks can: {:?}; give one with --np",
            world_sizes(global_batch, microbatch, world.max(64) as u64),
        )))
    }
}

/// An old checkpoint is deleted only after the newest was written. As many checkpoints as the best ones may wait for their
/// evaluation.
fn kept_checkpoints(facts: &Facts) -> u64 {
    let all = facts.config.training.steps.div_ceil(facts.config.training.save_interval.max(1));
    let checkpoint = &facts.config.checkpoint;
    let evaluated = checkpoint.keep_best.saturating_mul(2);
    checkpoint.keep_last.map_or(all, |keep| all.min(keep.saturating_add(1).saturating_add(evaluated)))
}

/// Checks limits that options of the command line set.
///
/// # Errors
/// With the option of the first mistake.
pub(super) fn check_limits(limits: &LaunchConfig) -> Result<(), LaunchError> {
    match limits.mistakes().first() {
        Some((field, mistake)) => Err(LaunchError::config(format!("--{}: {mistake}", field.replace('_', "-")))),
        None => Ok(()),
    }
}
