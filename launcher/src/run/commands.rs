//! The commands `run` and `sample`, their `--dry-run`, and `doctor`.

use std::time::{Duration, Instant};

use admiral_contract::run_folder::check_no_links_out;
use admiral_contract::secret::masked_argument;
use admiral_contract::{ExitCode, environment};
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::error::LaunchError;
use super::launch::{Launch, start};
use super::plan::LaunchPlan;
use super::preflight;
use crate::console::{Console, print};
use crate::environment::{LAUNCH_ADDRESSES, LAUNCH_MACHINE, LAUNCH_TOKEN};
use crate::file_writer::FileWriter;
use crate::files::{Files, write_json};
use crate::job::JobKind;
use crate::notify::{Notifier, Patience};
use crate::paths::receipt_of;

/// At its end, the launcher waits this long for a file system that does not answer.
const LAST_FILES: Duration = Duration::from_secs(10);
/// At its end, the launcher waits this long for a webhook or command.
const LAST_NOTIFICATION: Duration = Duration::from_secs(15);
/// At its end, the launcher waits this long for a terminal or pipe that takes no lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Returns the text of `--dry-run`.
///
/// # Errors
/// If the run could not be started.
pub async fn dry_run(plan: &LaunchPlan) -> Result<String, LaunchError> {
    let settings = plan.job.settings(&plan.program, &plan.options).await?;
    settings.check_world(plan.world)?;
    if let Some(notify) = &settings.limits.notify {
        Notifier::check(notify).map_err(LaunchError::config)?;
    }
    let attempt = plan.attempt(0, "LAUNCH", &plan.hosts.hosts, plan.world)?;
    let mut mpirun = attempt.mpirun;
    for name in [LAUNCH_ADDRESSES, LAUNCH_MACHINE, LAUNCH_TOKEN, environment::ATTEMPT, environment::LAUNCH_ID] {
        mpirun.variables.push((name.to_owned(), "(set at the start)".to_owned()));
    }
    let mut text = mpirun.dry_run();
    text += &format!("\nEvery rank runs, started by its agent:\n  {}\n", shown(&plan.job.argv(&plan.program, false)));
    let stall = match plan.job.kind() {
        JobKind::Train => "launch.stall_seconds",
        JobKind::Sample => "--stall-seconds",
    };
    text += &format!("\nTimeouts, from {stall}: {}\n", settings.timeouts());
    text += &format!("\nNotifications: {}\n", settings.notifications());
    Ok(text)
}

fn shown(argv: &[String]) -> String {
    argv.iter().map(|word| crate::shell::quoted(&masked_argument(word))).collect::<Vec<_>>().join(" ")
}

/// Runs until the end, and returns the launcher's exit code. A message on `stops` asks the run to stop.
///
/// # Errors
/// If the run could not be started.
pub async fn run(
    plan: LaunchPlan,
    console: Console,
    mut stops: mpsc::UnboundedReceiver<()>,
) -> Result<u8, LaunchError> {
    let launched = Instant::now();
    let launch_id = launch_id()?;
    let writer = FileWriter::start().map_err(LaunchError::system)?;
    crate::agent::adopt_orphans().map_err(LaunchError::system)?;
    for note in &plan.hosts.notes {
        console.info(note);
    }
    let (program, job) = (plan.program.clone(), plan.job.clone());
    // Without a preflight, mpirun starts the agents while the program reads the configuration. No rank starts before
    // that is done.
    let mut early = None;
    if plan.options.no_preflight {
        let first = plan.attempt(0, &launch_id, &plan.hosts.hosts, plan.world)?;
        early = Some(start(first, launched).await?);
    }
    let (mut launch, mut export) = (None, None);
    let outcome = tokio::select! {
        outcome = async {
            let settings = job.settings(&program, &plan.options).await?;
            let notifier = settings.limits.notify.as_ref().map(|notify| {
                Notifier::start(notify, Patience::default(), console.clone()).map_err(LaunchError::config)
            });
            let notifier = notifier.transpose()?;
            // If the preflight counts the GPUs, the number of ranks is not known yet.
            if plan.options.no_preflight || plan.has_given_slots() {
                settings.check_world(plan.world)?;
            }
            let (folder, warner) = (settings.run_folder.clone(), console.clone());
            let taken = tokio::task::spawn_blocking(move || Files::take(&folder, |text| warner.warn(text)));
            let files = taken.await.map_err(LaunchError::config)?.map_err(LaunchError::config)?;
            if !files.is_locked() {
                console.warn(&format!(
                    "the file system of {} has no locks: start no second launcher for this run at the same moment",
                    files.run().display()
                ));
            }
            let writer = writer.clone();
            let dead_man = settings.limits.dead_man_seconds.map(Duration::from_secs);
            let launch =
                launch.insert(Launch::new(plan, settings, files, writer, console.clone(), launch_id, launched));
            // From here on, people are told of every failure.
            launch.recorder.tell(notifier, dead_man);
            export = launch.export()?;
            launch.clean_up_earlier_launch().await;
            launch.preflight().await
        } => outcome,
        _ = stops.recv() => Err(LaunchError::stopped_early(job.kind())),
    };
    let code = match (outcome, &mut launch) {
        (Ok(()), Some(launch)) => launch.run_attempts(early, &mut stops).await,
        (outcome, _) => {
            if let Some(attempt) = early.take() {
                attempt.cancel().await;
            }
            outcome.and_then(|()| Err(LaunchError::system("nothing was started")))
        }
    };
    if let Some(launch) = &mut launch {
        launch.recorder.end(code.as_ref().map_or_else(|error| error.code, |&code| code));
    }
    if let Some(export) = export {
        export.finish(LAST_LINES);
    }
    if let Some(notifier) = launch.as_mut().and_then(|launch| launch.recorder.reporter.take_notifier()) {
        notifier.finish(LAST_NOTIFICATION);
    }
    if let Err(reason) = writer.finish(LAST_FILES) {
        console.warn(&reason);
    }
    let code = match code {
        Err(error) if error.code == ExitCode::Preempted as u8 => {
            console.info(&error.message);
            Ok(error.code)
        }
        code => code,
    };
    console.finish(LAST_LINES);
    code
}

/// Examines the hosts as `run` would, with `bandwidth` also the speed of their all-reduce, and prints the result.
/// Returns 0 if nothing is bad.
///
/// # Errors
/// If the hosts cannot be examined.
pub async fn doctor(plan: &LaunchPlan, console: Console, json: bool, bandwidth: bool) -> Result<u8, LaunchError> {
    let settings = plan.job.settings(&plan.program, &plan.options).await?;
    check_no_links_out(&settings.run_folder).map_err(LaunchError::config)?;
    let receipt = preflight::receipt(plan, &settings, None, bandwidth).await?;
    if let Err(error) = write_json(&receipt_of(&settings.run_folder), &receipt) {
        console.warn(&error.to_string());
    }
    print(&if json {
        serde_json::to_string_pretty(&receipt).unwrap_or_default() + "\n"
    } else {
        receipt.text(console.has_colour())
    });
    Ok(if receipt.is_good() { 0 } else { ExitCode::Node as u8 })
}

fn launch_id() -> Result<String, LaunchError> {
    let tail = crate::random::text(6).map_err(LaunchError::system)?;
    Ok(format!("{}-{tail}", Timestamp::now().strftime("%Y%m%dT%H%M%S")))
}
