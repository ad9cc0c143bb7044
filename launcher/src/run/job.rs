//! The job of a launch: the command line of its ranks, and its settings.

use std::path::{Path, PathBuf};

use admiral_contract::LaunchConfig;
use clap::Args as _;

use super::error::LaunchError;
use super::options::{LaunchOptions, RunOptions, SampleOptions};
use super::settings::{Settings, check_limits};
use crate::decide::next_resume;
use crate::facts;
use crate::job::{JobKind, Work};

/// The job of a launch.
#[derive(Debug, Clone)]
pub enum Job {
    /// `admiral train`.
    Train {
        /// The absolute path of the configuration, by which ranks on other hosts find it.
        config: PathBuf,
        /// Fields that are overridden.
        overrides: Vec<String>,
        /// Where the run begins.
        resume: String,
    },
    /// `admiral sample`. A restart has the same command line, and draws what is missing.
    Sample {
        /// The arguments of `admiral sample`; those that name a local checkpoint and folder are absolute.
        arguments: Vec<String>,
        /// The settings.
        settings: Box<Settings>,
    },
}

impl Job {
    /// Returns the training run with these options.
    ///
    /// # Errors
    /// If one of them is wrong.
    pub(super) fn train(options: &RunOptions) -> Result<Self, LaunchError> {
        check_resume(&options.resume)?;
        check_notify(&options.overrides)?;
        Ok(Self::Train {
            config: std::path::absolute(&options.config).map_err(LaunchError::system)?,
            overrides: options.overrides.clone(),
            resume: options.resume.clone(),
        })
    }

    /// Returns the sampling job with these options.
    ///
    /// # Errors
    /// If one of them is wrong.
    pub(super) fn sample(options: &SampleOptions) -> Result<Self, LaunchError> {
        let mut arguments = options.arguments.clone();
        refuse_own_options(&arguments)?;
        if value_of(&mut arguments, "--num").is_none() {
            return Err(LaunchError::config(
                "--num N: how many images? `admiral sample` draws a single grid without the launcher",
            ));
        }
        let Some(out) = value_of(&mut arguments, "--out") else {
            return Err(LaunchError::config("--out FOLDER_OR_URL: where do the images go?"));
        };
        make_absolute(out)?;
        let store = out.clone();
        let run_folder = match &options.run_folder {
            Some(folder) => std::path::absolute(folder).map_err(LaunchError::system)?,
            None => run_folder_beside(&store)?,
        };
        let mut places = Vec::new();
        if let Some(checkpoint) = arguments.first_mut() {
            make_absolute(checkpoint)?;
            places.extend(Some(&*checkpoint).filter(|checkpoint| !checkpoint.contains("://")).map(PathBuf::from));
        }
        let limits = LaunchConfig {
            stall_seconds: options.stall_seconds,
            restart_window_seconds: options.restart_window_seconds,
            ..LaunchConfig::default()
        };
        check_limits(&limits)?;
        let settings = Settings {
            work: Work::Sample,
            run_folder,
            store,
            limits,
            save_interval: None,
            grace_seconds: options.grace_seconds,
            uses_gpus: true,
            requires_gpus: false,
            files: Vec::new(),
            places,
            checkpoint_bytes: None,
            kept_checkpoints: 0,
        };
        Ok(Self::Sample { arguments, settings: Box::new(settings) })
    }

    /// Returns the kind of the job.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Train { .. } => JobKind::Train,
            Self::Sample { .. } => JobKind::Sample,
        }
    }

    /// Returns the command line of every rank. `has_stepped` says whether an earlier attempt has done a step.
    pub(super) fn argv(&self, program: &Path, has_stepped: bool) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut argv = vec![text(program)];
        match self {
            Self::Train { config, overrides, resume } => {
                argv.extend(["train".to_owned(), text(config)]);
                // A command line is visible to everybody on the host, and ranks tell nobody.
                let shown = overrides.iter().filter(|field| !field.trim_start().starts_with("launch.notify"));
                argv.extend(shown.flat_map(|field| ["--set".to_owned(), field.clone()]));
                argv.extend(["--resume".to_owned(), next_resume(resume.clone(), has_stepped)]);
            }
            Self::Sample { arguments, .. } => {
                argv.push("sample".to_owned());
                argv.extend(arguments.iter().cloned());
            }
        }
        argv
    }

    /// Returns the settings. Asks `program` for the configuration of a training run.
    ///
    /// # Errors
    /// If the configuration is wrong, or the program does not answer.
    pub(super) async fn settings(&self, program: &Path, options: &LaunchOptions) -> Result<Settings, LaunchError> {
        let settings = match self {
            Self::Train { config, overrides, .. } => {
                let facts = facts::query(program, config, overrides).await.map_err(LaunchError::config)?;
                Settings::of_training(facts, config.clone())
            }
            Self::Sample { settings, .. } => (**settings).clone(),
        };
        settings.with_options(options)
    }
}

/// Returns the value of an option of `admiral sample`, given as `--name VALUE` or `--name=VALUE`. The latter is split
/// into two arguments.
fn value_of<'a>(arguments: &'a mut Vec<String>, name: &str) -> Option<&'a mut String> {
    let is_it = |word: &String| word.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
    let place = arguments.iter().position(is_it)?;
    if let Some((option, value)) = arguments[place].split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())) {
        arguments.splice(place..=place, [option, value]);
    }
    arguments.get_mut(place + 1)
}

/// Makes a local path absolute, because ranks on other hosts may have another working folder.
fn make_absolute(path: &mut String) -> Result<(), LaunchError> {
    if !path.contains("://") {
        *path = std::path::absolute(&*path)
            .map_err(|error| LaunchError::config(format!("{path:?}: {error}")))?
            .to_string_lossy()
            .into_owned();
    }
    Ok(())
}

/// Returns the folder of the launcher's files beside the folder of the images, so that only images are in the latter.
fn run_folder_beside(out: &str) -> Result<PathBuf, LaunchError> {
    match Path::new(out).file_name() {
        Some(name) if !out.contains("://") => {
            let mut name = name.to_owned();
            name.push("-launch");
            Ok(Path::new(out).with_file_name(name))
        }
        _ => Err(LaunchError::config(format!(
            "--run-folder FOLDER: where do the launcher's own files go? The images go to {out}"
        ))),
    }
}

/// Refuses the launcher's own options after the checkpoint, where `admiral sample` would get them.
fn refuse_own_options(arguments: &[String]) -> Result<(), LaunchError> {
    let own = SampleOptions::augment_args(clap::Command::new("sample"));
    let is_own = |word: &&String| {
        let name = word.strip_prefix("--").map(|rest| rest.split('=').next().unwrap_or_default());
        name.is_some_and(|name| own.get_arguments().any(|argument| argument.get_long() == Some(name)))
    };
    match arguments.iter().find(is_own) {
        Some(word) => Err(LaunchError::config(format!(
            "{word}: options of the launcher come before the checkpoint; those after it go to `admiral sample`"
        ))),
        None => Ok(()),
    }
}

/// Refuses an override that hides a receiver of notifications among other fields.
fn check_notify(overrides: &[String]) -> Result<(), LaunchError> {
    let is_hidden = |field: &String| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        name.trim() == "launch" && value.contains("notify")
    };
    if overrides.iter().any(is_hidden) {
        return Err(LaunchError::config("--set launch: give launch.notify by itself, or with --notify"));
    }
    Ok(())
}

/// Refuses anything that `admiral train --resume` does not accept.
fn check_resume(text: &str) -> Result<(), LaunchError> {
    if matches!(text, "auto" | "latest") || text.parse::<u64>().is_ok() {
        return Ok(());
    }
    Err(LaunchError::config(format!("--resume {text:?}: expected auto, latest or a step")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct SampleArguments {
        #[command(flatten)]
        options: SampleOptions,
    }

    #[derive(Parser)]
    struct RunArguments {
        #[command(flatten)]
        options: RunOptions,
    }

    fn sample(words: &str) -> Result<Job, LaunchError> {
        Job::sample(&SampleArguments::parse_from(["x"].into_iter().chain(words.split(' '))).options)
    }

    fn settings(job: Job) -> Settings {
        match job {
            Job::Sample { settings, .. } => *settings,
            Job::Train { .. } => panic!("{job:?}"),
        }
    }

    #[test]
    fn a_training_run_restarts_from_its_newest_checkpoint() {
        let words = ["x", "/c.yaml", "--set", "a.b=1", "--set", "c=d e", "--resume", "1200"];
        let job = Job::train(&RunArguments::parse_from(words).options).unwrap();
        let argv = |has_stepped| job.argv("/opt/admiral".as_ref(), has_stepped);
        let first = ["/opt/admiral", "train", "/c.yaml", "--set", "a.b=1", "--set", "c=d e", "--resume", "1200"];
        assert_eq!(argv(false), first);
        assert_eq!(argv(true).last().unwrap(), "auto");
    }

    #[test]
    fn ranks_do_not_get_the_receiver_of_notifications() {
        let words = ["x", "/c.yaml", "--set", "launch.notify=https://h/hush", "--set", "launch.max_restarts=3"];
        let options = RunArguments::parse_from(words).options;
        let argv = Job::train(&options).unwrap().argv("a".as_ref(), false);
        assert_eq!(argv, ["a", "train", "/c.yaml", "--set", "launch.max_restarts=3", "--resume", "auto"]);
        let overrides = vec!["launch={notify: 'https://h/hush'}".to_owned()];
        let error = Job::train(&RunOptions { overrides, ..options }).expect_err("it is hidden").message;
        assert!(error.contains("launch.notify") && !error.contains("hush"), "{error}");
    }

    #[test]
    fn a_sampling_job_restarts_with_the_same_command_line() {
        let words = "--np 4 --stall-seconds 60 /runs/own --num 50000 --out /images/own --seed 7 --labels -1";
        let job = sample(words).unwrap();
        let argv = [
            "/opt/admiral",
            "sample",
            "/runs/own",
            "--num",
            "50000",
            "--out",
            "/images/own",
            "--seed",
            "7",
            "--labels",
            "-1",
        ];
        assert_eq!(job.argv("/opt/admiral".as_ref(), false), argv);
        assert_eq!(job.argv("/opt/admiral".as_ref(), true), argv);
        let settings = settings(job);
        assert_eq!(settings.run_folder, Path::new("/images/own-launch"));
        assert_eq!((settings.store.as_str(), settings.limits.stall_seconds), ("/images/own", 60));
        assert_eq!(settings.places, [Path::new("/runs/own")]);
    }

    #[test]
    fn paths_are_absolute_and_urls_are_kept() {
        let here = std::env::current_dir().unwrap();
        let job = sample("runs/own --num=9 --out=images/").unwrap();
        let out = here.join("images/").display().to_string();
        let argv = ["a", "sample", &here.join("runs/own").display().to_string(), "--num", "9", "--out", &out];
        assert_eq!(job.argv("a".as_ref(), false), argv);
        assert_eq!(settings(job).run_folder, here.join("images-launch"));
        let job = sample("--run-folder /l s3://b/own --num 9 --out s3://b/images").unwrap();
        assert_eq!(job.argv("a".as_ref(), false)[2..], ["s3://b/own", "--num", "9", "--out", "s3://b/images"]);
        let settings = settings(job);
        assert_eq!((settings.run_folder, settings.places), (PathBuf::from("/l"), Vec::new()));
    }

    #[test]
    fn wrong_options_of_a_sampling_job_are_refused() {
        for (words, said) in [
            ("runs/own --out o", "--num N"),
            ("runs/own --num 9", "--out FOLDER_OR_URL"),
            ("runs/own --num 9 --out", "--out FOLDER_OR_URL"),
            ("runs/own --num 9 --out s3://b/images", "--run-folder FOLDER"),
            ("runs/own --num 9 --out /", "--run-folder FOLDER"),
            ("runs/own --num 9 --out o --hosts n0:2", "--hosts: options of the launcher come before"),
            ("runs/own --num 9 --out o --np=2", "--np=2: options of the launcher come before"),
            ("--stall-seconds 1 runs/own --num 9 --out o", "--stall-seconds: must be at least 5"),
            ("--restart-window-seconds 0 runs/own --num 9 --out o", "--restart-window-seconds: must be from"),
        ] {
            let error = sample(words).expect_err(words);
            assert_eq!((error.code, error.message.starts_with(said)), (64, true), "{words}: {}", error.message);
        }
        assert!(SampleArguments::try_parse_from(["x", "--hostfle", "h", "runs/own"]).is_err(), "not an option");
        assert!(SampleArguments::try_parse_from(["x", "--np", "2"]).is_err(), "no checkpoint");
    }

    #[test]
    fn the_option_resume_is_checked_early() {
        for text in ["auto", "latest", "0", "1200"] {
            assert!(check_resume(text).is_ok(), "{text}");
        }
        for text in ["blah", "", "-1", "fresh", "1.5"] {
            let error = check_resume(text).expect_err("no rank would take it");
            assert_eq!((error.code, error.message.contains(text)), (64, true), "{text}");
        }
    }
}
