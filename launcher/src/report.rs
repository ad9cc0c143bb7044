//! The command `admiral-launch report`: gathers what is known of a run, and writes it as one HTML page.

use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use admiral_config::read_field;
use admiral_contract::files::{check_expanded, read_regular, replace};
use admiral_contract::secret::masked_text;
use admiral_goodput::{Ledger, seconds_since_epoch};
use admiral_report::{Curves, Incident, Incidents, Pictures, Report, Table};

use crate::doctor::Receipt;
use crate::goodput::epoch_seconds;
use crate::incident::Failure;
use crate::paths::{MAX_FILE, incident_of, receipt_of, state_of};
use crate::status::{State, span};

/// The largest number of incidents that are read, and of those whose files are named because they cannot be read.
const MAX_INCIDENTS: u64 = 10_000;
const MAX_DAMAGED: usize = 20;

/// There is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The run is the URL of its checkpoints.
    #[error("{0}: a report needs the run's folder (run.folder), where its curves and incidents are")]
    Url(String),
    /// The folder cannot be read.
    #[error("{path}: {source}; give the folder of a run (run.folder)")]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Nothing in the folder is of a run.
    #[error("{path}: no run has written its files there; give the folder of a run (run.folder)")]
    Absent {
        /// The folder.
        path: PathBuf,
    },
    /// The path of the page is not whole.
    #[error("{0}")]
    Out(String),
    /// The page cannot be written.
    #[error("{path}: {source}; name another file with --out")]
    Write {
        /// The page.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// Writes the report of the run in a folder to a file.
///
/// # Errors
/// If nothing is known of the run, or the file cannot be written.
pub fn report(run: &Path, out: &Path) -> Result<(), ReportError> {
    check_expanded("--out", out).map_err(ReportError::Out)?;
    if run.to_string_lossy().contains("://") {
        return Err(ReportError::Url(masked_text(&run.to_string_lossy())));
    }
    let folder = std::fs::canonicalize(run);
    let folder = folder.map_err(|source| ReportError::Unreadable { path: run.to_owned(), source })?;
    let html = gather(&folder).ok_or_else(|| ReportError::Absent { path: run.to_owned() })?.html();
    let failed = |source| ReportError::Write { path: out.to_owned(), source };
    if out.is_dir() {
        return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    replace(out, ".partial", |mut file| file.write_all(html.as_bytes()).map(|()| file)).map_err(failed)
}

/// Returns everything that is known of the run in a folder. `None` if that is nothing.
fn gather(run: &Path) -> Option<Report> {
    let state: Result<State, String> = read_json(&state_of(run));
    let ledger = crate::goodput::read_ledger(run).map(|(ledger, _)| ledger).map_err(|error| error.to_string());
    let configuration = read_text(&run.join("config.yaml"));
    let board = event_folder(run, configuration.as_deref().unwrap_or_default());
    let no_board = |error: io::Error| masked_text(&format!("{}: {error}", board.display()));
    let configuration = configuration.map(|text| masked_text(&text));
    let pictures = Pictures::read_events(&board).map_err(no_board).and_then(|pictures| {
        if pictures.is_empty() {
            Err("the event files have no image; see training.sample_interval".to_owned())
        } else {
            Ok(pictures)
        }
    });
    let report = Report {
        run: run.display().to_string(),
        written: seconds_since_epoch(),
        summary: summary(state.as_ref().ok(), ledger.as_ref().ok()),
        curves: curves(run, &board),
        ledger,
        incidents: incidents(run, state.is_ok()),
        pictures,
        configuration,
        hosts: hosts(run, state.as_ref().ok()),
    };
    let is_known = state.is_ok()
        || report.curves.is_ok()
        || report.ledger.is_ok()
        || report.pictures.is_ok()
        || report.configuration.is_ok();
    is_known.then_some(report)
}

/// Returns the folder of the event files of a run with this configuration.
fn event_folder(run: &Path, configuration: &str) -> PathBuf {
    let field = |name| read_field(configuration, name)?.as_str().map(PathBuf::from);
    let default = run.join("tensorboard");
    let Some(folder) = field("telemetry.tensorboard_folder") else { return default };
    // A relative folder is relative to the folder in which the ranks ran, as run.folder is.
    let ran_in = field("run.folder").and_then(|relative| {
        let names: PathBuf = relative.components().filter(|part| *part != Component::CurDir).collect();
        run.ends_with(&names).then(|| run.ancestors().nth(names.components().count()))?
    });
    let folder = ran_in.map_or_else(|| folder.clone(), |ran_in| ran_in.join(&folder));
    // The run's folder may have been moved alone.
    if folder.is_dir() || !default.is_dir() { folder } else { default }
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = read_regular(path, MAX_FILE).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    serde_json::from_str(&read_text(path)?).map_err(|error| format!("{}: {error}", path.display()))
}

fn curves(run: &Path, board: &Path) -> Result<Curves, String> {
    let lines = run.join("metrics.jsonl");
    let found = if lines.exists() {
        Curves::read_lines(&lines).map_err(|error| format!("{}: {error}", lines.display()))
    } else {
        Curves::read_events(board).map_err(|error| masked_text(&format!("{}: {error}", board.display())))
    };
    found.and_then(|curves| if curves.is_empty() { Err("no step was logged".to_owned()) } else { Ok(curves) })
}

fn summary(state: Option<&State>, ledger: Option<&Ledger>) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    if let Some(state) = state {
        row(
            "state",
            match state.exit_code {
                Some(code) => format!("{} with {code}", state.condition),
                None => state.condition.to_string(),
            },
        );
        let last = if state.last_step > 0 { format!(" of {}", state.last_step) } else { String::new() };
        row(&format!("{}s", state.kind.unit()), format!("{}{last}", state.step));
        if let Some(rate) = state.images_per_second {
            row("images/s", format!("{rate:.1}"));
        }
        if let Some(left) = state.seconds_left {
            row("time left", span(left));
        }
        row("ranks", format!("{} on {}", state.world, state.hosts.join(", ")));
        row("restarts", state.restarts.to_string());
        row("newest checkpoint", format!("step {}", state.checkpoint_step));
    } else if let Some(ledger) = ledger {
        row("steps", ledger.step.to_string());
    }
    if let Some(ledger) = ledger {
        let (first, last) = (ledger.spans.first(), ledger.spans.last());
        let time = last.map_or(0.0, |span| span.end) - first.map_or(0.0, |span| span.start);
        row("time", span(time));
    }
    rows
}

/// Reads the incidents. A damaged file hides only its own.
fn incidents(run: &Path, has_state: bool) -> Result<Incidents, String> {
    let (mut found, mut num_damaged) = (Incidents::default(), 0);
    for number in 1..=MAX_INCIDENTS {
        let path = incident_of(run, number);
        if !path.exists() {
            break;
        }
        let failure: Failure = match read_json(&path) {
            Ok(failure) => failure,
            Err(reason) => {
                num_damaged += 1;
                if num_damaged <= MAX_DAMAGED {
                    found.notes.push(format!("incident {number} cannot be read: {}", masked_text(&reason)));
                }
                continue;
            }
        };
        found.list.push(Incident {
            number,
            detected: epoch_seconds(failure.detected),
            verdict: masked_text(&failure.verdict),
            action: masked_text(&failure.action),
            steps_lost: failure.steps_lost,
            seconds_lost: failure.seconds_lost,
            last_lines: failure.last_lines.iter().map(|line| masked_text(line)).collect(),
        });
    }
    if num_damaged > MAX_DAMAGED {
        found.notes.push(format!("{} further incidents cannot be read", num_damaged - MAX_DAMAGED));
    }
    if found.list.is_empty() && num_damaged == 0 && !has_state {
        return Err("no admiral-launch has run there, which would record incidents".to_owned());
    }
    Ok(found)
}

fn hosts(run: &Path, state: Option<&State>) -> Result<Table, String> {
    let receipt: Receipt = match (read_json(&receipt_of(run)), state) {
        (Ok(receipt), _) => receipt,
        (Err(_), Some(state)) => {
            let ranks = |host: &String| state.ranks.iter().filter(|rank| rank.host == *host).count().to_string();
            return Ok(Table {
                columns: ["host", "ranks"].map(str::to_owned).to_vec(),
                rows: state.hosts.iter().map(|host| vec![host.clone(), ranks(host)]).collect(),
                notes: vec!["The hosts were not examined (--no-preflight).".to_owned()],
            });
        }
        (Err(_), None) => return Err("no admiral-launch has run there, which would examine the hosts".to_owned()),
    };
    let columns = ["host", "ranks", "GPUs", "driver", "admiral", "libtorch", "MPI", "kernel"];
    let rows = receipt.hosts.iter().map(|host| {
        let report = host.report.as_ref();
        let gpus = report.map(|report| report.gpus.as_slice()).unwrap_or_default();
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        vec![
            host.name.clone(),
            host.ranks.to_string(),
            gpus.first().map_or_else(|| "none".to_owned(), |gpu| format!("{} x {}", gpus.len(), gpu.name)),
            text(gpus.first().map(|gpu| gpu.driver.clone())),
            text(report.and_then(|report| report.admiral.clone())),
            text(report.and_then(|report| report.libtorch.clone())),
            // The version string also has the package and the date.
            text(report.and_then(|report| Some(report.mpi.as_ref()?.split(',').next()?.to_owned()))),
            text(report.map(|report| report.kernel.clone())),
        ]
    });
    Ok(Table {
        columns: columns.map(str::to_owned).to_vec(),
        rows: rows.collect(),
        notes: vec![format!("As the preflight of {} found them.", receipt.checked_at.strftime("%Y-%m-%d %H:%M:%S"))],
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use admiral_telemetry::{Grid, TensorBoard};
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_is_no_run_is_refused_and_nothing_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("report.html");
        let run = folder.path().join("run");
        let error = |run: &Path, out: &Path| report(run, out).expect_err("there is no run").to_string();
        assert!(error(&run, &out).contains("run.folder"));
        std::fs::create_dir(&run).expect("a folder");
        assert!(error(&run, &out).contains("no run has written"));
        assert!(error(Path::new("s3://me:hush@bucket/run"), &out).starts_with("s3://(secret, not shown)@bucket/run"));
        std::fs::write(run.join("config.yaml"), "HF_TOKEN=hush").expect("it can be written");
        assert!(error(&run, folder.path()).contains("--out"));
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "only the run");
        report(&run, &out).expect("a configuration is enough");
        let html = std::fs::read_to_string(&out).expect("it is written");
        assert!(html.matches("Missing: ").count() == 5 && !html.contains("hush"), "{html}");
    }

    #[test]
    fn event_files_are_read_from_the_folder_that_the_configuration_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let (base, run) = (folder.path(), folder.path().join("runs/own"));
        let curves = base.join("curves");
        std::fs::create_dir_all(&run).expect("it can be made");
        let absolute = format!("telemetry: {{tensorboard_folder: {}}}", curves.display());
        let relative = "run: {folder: ./runs/own}\ntelemetry: {tensorboard_folder: curves}";
        let elsewhere = "run: {folder: /other/runs/own}\ntelemetry: {tensorboard_folder: curves}";
        for (configuration, expected) in [
            ("", run.join("tensorboard")),
            ("telemetry: {tensorboard_folder: null}", run.join("tensorboard")),
            (absolute.as_str(), curves.clone()),
            (relative, curves.clone()),
            (elsewhere, PathBuf::from("curves")),
        ] {
            assert_eq!(event_folder(&run, configuration), expected, "{configuration}");
        }
        let board = TensorBoard::open(&curves, 0, Duration::from_secs(60));
        board.scalar("loss", 5, 0.5);
        board.image("sample_grid", 5, Grid { width: 1, height: 1, channels: 1, pixels: vec![0] });
        assert!(board.flush(Duration::from_secs(60)));
        std::fs::write(run.join("config.yaml"), relative).expect("it can be written");
        let found = gather(&run).expect("there is a configuration");
        assert!(found.curves.is_ok() && found.pictures.is_ok(), "{:?}, {:?}", found.curves, found.pictures);
        std::fs::create_dir(run.join("tensorboard")).expect("it can be made");
        std::fs::remove_dir_all(&curves).expect("it is there");
        assert_eq!(event_folder(&run, relative), run.join("tensorboard"), "only the run's folder is left");
    }

    #[test]
    fn a_damaged_incident_hides_no_other_and_secrets_are_masked() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |number, text: &str| {
            let path = incident_of(folder.path(), number);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
            std::fs::write(path, text).expect("it can be written");
        };
        write(1, "{\"launch_id\": \"l\"");
        let secret = "HF_TOKEN=hush";
        let failure = serde_json::json!({
            "launch_id": "l", "incident": 2, "attempt": 0, "detected": "2026-11-30T12:00:00Z", "step": 20,
            "verdict": format!("rank 1 failed: {secret}"), "action": format!("restarts with {secret}"),
            "last_lines": [secret], "ranks": [], "standstill_seconds": 0.0,
            "group": {"seconds_to_down": 1.0, "processes_left": 0, "unverified_hosts": []},
        });
        write(2, &failure.to_string());
        let Incidents { list, notes } = incidents(folder.path(), false).expect("there are incidents");
        assert!(list.len() == 1 && list[0].number == 2 && list[0].verdict.starts_with("rank 1 failed"), "{list:?}");
        assert!(!format!("{list:?}").contains("hush"), "{list:?}");
        assert!(notes.len() == 1 && notes[0].contains("launch/incidents/001/failure.json"), "{notes:?}");
        write(2, "");
        assert_eq!(incidents(folder.path(), false).expect("both are damaged").notes.len(), 2);
    }

    #[test]
    fn pipes_and_long_files_are_missing_parts() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = folder.path();
        for name in ["config.yaml", "metrics.jsonl"] {
            let made = std::process::Command::new("mkfifo").arg(run.join(name)).status().expect("mkfifo");
            assert!(made.success());
        }
        let state = State::of_launch("l".into(), Timestamp::UNIX_EPOCH);
        crate::files::write_json(&state_of(run), &state).expect("it can be written");
        let found = gather(run).expect("there is a state");
        assert!(found.curves.is_err_and(|reason| reason.contains("a pipe (FIFO), not a regular file")));
        assert!(found.configuration.is_err_and(|reason| reason.contains("a pipe (FIFO), not a regular file")));
    }
}
