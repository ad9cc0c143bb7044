//! The command `admiral-launch status`.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use admiral_contract::files::read_regular;
use admiral_contract::host::Life;
use admiral_contract::{printable, printable_json};
use jiff::Timestamp;

use super::more::{Gatherer, More};
use super::state::{Condition, STALE_SECONDS, State};
use crate::doctor::format_bytes;
use crate::job::JobKind;
use crate::paths::{MAX_FILE, state_of};

/// How long the disk may take for the state of a run.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the first measurements of disk and goodput are waited for.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// Counting the files of a folder takes at most this long: once, so that it ends before [`FIRST_ANSWER`], or with --watch.
const COUNTING: Duration = Duration::from_millis(1500);
const COUNTING_WATCHED: Duration = Duration::from_secs(5);

/// There is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// No launcher has run there.
    #[error(
        "{path}: {source}; no admiral-launch has run there, or give the run's folder (run.folder, or --run-folder of a sampling job)"
    )]
    Absent {
        /// The path of the missing file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The disk does not answer.
    #[error("{path}: the file system has not answered for {seconds} s; is its server well?")]
    Late {
        /// The path of the file.
        path: PathBuf,
        /// The time that was waited.
        seconds: u64,
    },
    /// The file has another format.
    #[error("{path} cannot be understood: {source}")]
    Foreign {
        /// The path of the file.
        path: PathBuf,
        /// The parse error.
        source: serde_json::Error,
    },
    /// The program that lists the checkpoints of a URL failed.
    #[error("{0}")]
    Listing(String),
}

/// Reads the state of the run in this folder.
///
/// # Errors
/// If no launcher has run there, or its file has another format.
pub fn read(run: &Path) -> Result<State, StatusError> {
    let path = state_of(run);
    let text = read_regular(&path, MAX_FILE).map_err(|source| StatusError::Absent { path: path.clone(), source })?;
    let state = serde_json::from_slice(&text).map_err(|source| StatusError::Foreign { path, source })?;
    Ok(State::with_names_in_one_line(state))
}

/// Shows the state of a run, from its folder or from the URL of its checkpoints, which `program` lists. With `watch`,
/// repeats until the run has ended.
///
/// # Errors
/// If nothing is known of the run.
pub fn status(run: &str, program: &Path, watch: bool, json: bool) -> Result<(), StatusError> {
    let mut gatherer = None;
    loop {
        let (text, is_over) = if run.contains("://") {
            (listing(run, program, json)?, false)
        } else {
            local(run, program, json, if watch { COUNTING_WATCHED } else { COUNTING }, &mut gatherer)?
        };
        let clear = if watch && std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        // The reader may be gone.
        let shown = if json { printable_json(&text) } else { printable(&text) };
        if std::io::stdout().write_all(format!("{clear}{shown}").as_bytes()).is_err() || !watch || is_over {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Reads the state from a thread, because the disk may not answer.
fn read_soon(run: &str) -> Result<State, StatusError> {
    let (send, answer) = channel();
    let path = Path::new(run).to_owned();
    std::thread::spawn(move || {
        // The reader gives up if the disk is late.
        let _ = send.send(read(&path));
    });
    let late = |_| StatusError::Late { path: state_of(Path::new(run)), seconds: PATIENCE.as_secs() };
    answer.recv_timeout(PATIENCE).map_err(late)?
}

fn local(
    run: &str,
    program: &Path,
    json: bool,
    counting: Duration,
    gatherer: &mut Option<Gatherer>,
) -> Result<(String, bool), StatusError> {
    let mut state = read_soon(run)?;
    let is_silent = is_stale(&state, Timestamp::now());
    let is_gone = is_silent
        && match state.life() {
            Life::Alive => false,
            Life::Dead => true,
            Life::Unknown => {
                // The clocks of two machines may differ, so a write says more than the age of the file.
                std::thread::sleep(Duration::from_millis(2500));
                let before = std::mem::replace(&mut state, read_soon(run)?);
                before.updated == state.updated
            }
        };
    if gatherer.is_none() {
        // Without it, the table is shorter.
        *gatherer = Gatherer::start(Path::new(run), state.store.as_deref(), program, counting).ok();
    }
    let more = gatherer.as_mut().and_then(|gatherer| gatherer.newest(FIRST_ANSWER)).cloned().unwrap_or_default();
    let is_over = state.condition == Condition::Ended;
    let text = if json {
        serde_json::to_string_pretty(&with_more(&state, &more)).unwrap_or_default() + "\n"
    } else {
        table(run, &state, &more, is_gone, Timestamp::now())
    };
    Ok((text, is_over))
}

/// Returns the state as JSON, with what else is known.
fn with_more(state: &State, more: &More) -> serde_json::Value {
    let mut value = serde_json::to_value(state).unwrap_or_default();
    if let Some((step, seconds)) = state.next_checkpoint() {
        value["next_checkpoint"] = serde_json::json!({"step": step, "seconds": seconds});
    }
    value["goodput"] = serde_json::json!(more.goodput);
    value["disk"] = serde_json::json!({"folder": more.folder, "checkpoint_bytes": more.checkpoint_bytes});
    value
}

/// Returns the output of `admiral checkpoint list`. Without the launcher's file, nothing else is known.
fn listing(url: &str, program: &Path, json: bool) -> Result<String, StatusError> {
    let mut command = Command::new(program);
    command.args(["checkpoint", "list", url]).args(json.then_some("--json")).stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|error| StatusError::Listing(format!("{} cannot be started: {error}", program.display())))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(StatusError::Listing(said.trim().trim_start_matches("error: ").to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns whether a launch has not ended and its state was not written for a while, by this machine's clock.
fn is_stale(state: &State, now: Timestamp) -> bool {
    let age = (now - state.updated).total(jiff::Unit::Second).unwrap_or(0.0);
    state.condition != Condition::Ended && age > STALE_SECONDS
}

/// Returns the table for people, at the time `now`. `is_gone` says that the launcher has ended without a word.
fn table(run: &str, state: &State, more: &More, is_gone: bool, now: Timestamp) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<16} {value}");
    };
    let age = (now - state.updated).total(jiff::Unit::Second).unwrap_or(0.0);
    let condition = if is_gone {
        format!(
            "its launcher (process {} on {}) is gone: nothing for {}",
            state.launcher_pid,
            state.launcher_host,
            span(age)
        )
    } else if let Some(code) = state.exit_code {
        format!("{} with {code}, {} ago", state.condition, span(age))
    } else if let Some(next) = state.next_start {
        let left = (next - now).total(jiff::Unit::Second).unwrap_or(0.0);
        format!("{}: starts again in {}", state.condition, span(left))
    } else {
        state.condition.to_string()
    };
    row("run", run.to_owned());
    row("state", condition);
    row("ranks", format!("{} on {}", state.world, state.hosts.join(", ")));
    let last = if state.last_step > 0 { format!(" of {}", state.last_step) } else { String::new() };
    let unit = match state.kind {
        JobKind::Train => "step",
        JobKind::Sample => "images",
    };
    row(unit, format!("{}{last}", state.step));
    if let Some(rate) = state.images_per_second {
        row("images/s", format!("{rate:.1}"));
    }
    if let Some(left) = state.seconds_left {
        row("time left", span(left));
    }
    if state.kind == JobKind::Train {
        row("checkpoint", format!("step {}", state.checkpoint_step));
    }
    if let Some((step, seconds)) = state.next_checkpoint() {
        let when = seconds.map(|seconds| format!(", in about {}", span(seconds))).unwrap_or_default();
        row("next checkpoint", format!("step {step}{when}"));
    }
    if let Some(share) = more.goodput {
        row("goodput", format!("{:.1} % of all time were steps that count", 100.0 * share));
    }
    if let Some(usage) = &more.folder {
        let least = if usage.is_complete { "" } else { "at least " };
        let free = usage.free.map(|bytes| format!(", {} free", format_bytes(bytes))).unwrap_or_default();
        row("disk", format!("{least}{} in {} files{free}", format_bytes(usage.bytes), usage.files));
    }
    if let (Some(bytes), Some(store)) = (more.checkpoint_bytes, &state.store) {
        row("store", format!("{} in {store}", format_bytes(bytes)));
    }
    row("restarts", state.restarts.to_string());
    for slow in &state.slow {
        row("slow", slow.clone());
    }
    if let Some(incident) = &state.last_incident {
        row("last incident", incident.clone());
    }
    text
}

/// Formats a duration in seconds for people.
#[must_use]
pub fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..172_800 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} days {} h", whole / 86400, whole % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::usage::Usage;

    fn state() -> State {
        let then = Timestamp::from_second(1_000_000).expect("a time");
        State {
            launcher_host: "n0".into(),
            launcher_pid: 7,
            condition: Condition::Training,
            attempt: 1,
            restarts: 1,
            world: 4,
            hosts: vec!["n0".into(), "n1".into()],
            step: 20,
            last_step: 100,
            images_per_second: Some(64.0),
            seconds_left: Some(4000.0),
            checkpoint_step: 10,
            slow: vec!["rank 3".into()],
            last_incident: Some("rank 1 was killed".into()),
            ..State::of_launch("l".into(), then)
        }
    }

    #[test]
    fn the_table_shows_the_state() {
        let text =
            table("runs/a", &state(), &More::default(), false, Timestamp::from_second(1_000_002).expect("a time"));
        for part in
            ["training", "4 on n0, n1", "20 of 100", "64.0", "1 h 6 min", "step 10", "rank 3", "rank 1 was killed"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn goodput_disk_and_the_next_checkpoint_are_shown() {
        let usage = Usage { bytes: 12_300_000, files: 40, is_complete: false, free: Some(5_000_000_000) };
        let more = More { goodput: Some(0.934), folder: Some(usage), checkpoint_bytes: Some(7_000_000) };
        let state = State { save_interval: Some(25), store: Some("s3://b/own".into()), ..state() };
        let text = table("runs/a", &state, &more, false, Timestamp::from_second(1_000_002).expect("a time"));
        for part in [
            "next checkpoint  step 25, in about 4 min 10 s",
            "goodput          93.4 %",
            "disk             at least 12.3 MB in 40 files, 5.0 GB free",
            "store            7.0 MB in s3://b/own",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = with_more(&state, &more);
        assert_eq!(json["next_checkpoint"], serde_json::json!({"step": 25, "seconds": 250.0}));
        assert_eq!((&json["goodput"], &json["disk"]["folder"]["files"]), (&0.934.into(), &40.into()));
        serde_json::from_value::<State>(json).expect("programs that read state.json can read it");
    }

    #[test]
    fn a_sampling_job_has_images_and_no_steps() {
        let drawing = State { kind: JobKind::Sample, condition: Condition::Sampling, ..state() };
        let text =
            table("runs/a", &drawing, &More::default(), false, Timestamp::from_second(1_000_002).expect("a time"));
        for part in ["drawing images", "images           20 of 100", "64.0", "1 h 6 min", "restarts"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("step") && !text.contains("checkpoint"), "{text}");
    }

    #[test]
    fn a_dead_launcher_is_reported() {
        let text =
            table("runs/a", &state(), &More::default(), true, Timestamp::from_second(1_000_100).expect("a time"));
        assert!(text.contains("(process 7 on n0) is gone: nothing for 1 min 40 s"), "{text}");
        let ended = State { condition: Condition::Ended, exit_code: Some(75), ..state() };
        let text = table("runs/a", &ended, &More::default(), false, Timestamp::from_second(1_000_100).expect("a time"));
        assert!(text.contains("ended with 75, 1 min 40 s ago"), "{text}");
    }

    #[test]
    fn a_waiting_launcher_shows_the_time_left() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let waits = State { condition: Condition::Recovering, next_start: Some(at(1_000_090)), ..state() };
        let text = table("runs/a", &waits, &More::default(), false, at(1_000_002));
        assert!(text.contains("recovering: starts again in 1 min 28 s"), "{text}");
    }

    #[test]
    fn durations_are_formatted() {
        assert_eq!([3.2, 61.0, 7260.0, 200_000.0].map(span), ["3 s", "1 min 1 s", "2 h 1 min", "2 days 7 h"]);
    }

    #[test]
    fn a_run_without_a_launcher_is_named() {
        let error = read(Path::new("/nowhere")).expect_err("nothing is there").to_string();
        assert!(error.starts_with("/nowhere/launch/state.json"), "{error}");
    }

    #[test]
    fn a_pipe_in_the_place_of_the_state_is_named() {
        let run = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(run.path().join("launch")).expect("a folder");
        let made = std::process::Command::new("mkfifo").arg(state_of(run.path())).status().expect("mkfifo");
        assert!(made.success());
        let error = read(run.path()).expect_err("it is a pipe").to_string();
        assert!(error.contains("launch/state.json: it is a pipe (FIFO), not a regular file"), "{error}");
    }

    #[test]
    fn names_with_line_breaks_stay_in_one_line() {
        let run = tempfile::tempdir().expect("a folder");
        let hostile = "x\nadmiral-launch: fake\u{1b}";
        let mut state = state();
        state.launcher_host = hostile.into();
        state.hosts = vec!["n0".into(), hostile.into()];
        state.slow = vec![hostile.into()];
        state.last_incident = Some(hostile.into());
        crate::files::write_json(&state_of(run.path()), &state).expect("it can be written");
        let read = read(run.path()).expect("it is a state");
        let shown = [&read.launcher_host, &read.hosts[1], &read.slow[0]].into_iter().chain(&read.last_incident);
        for text in shown {
            assert_eq!(text, "x\\nadmiral-launch: fake\\u{1b}");
        }
        assert_eq!(read.hosts[0], "n0");
    }
}
