//! The command `admiral-launch goodput`: what the time of a run was spent on.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use admiral_goodput::{Account, CheckpointInterval, Day, Ledger, Shares, Table, checkpoint_interval, read_events};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// There is no ledger to show.
#[derive(Debug, thiserror::Error)]
pub enum GoodputError {
    /// The files cannot be read.
    #[error("{path}: {source}; give the folder of a run (run.folder)")]
    Unreadable {
        /// The run's folder.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// No attempt has recorded its time.
    #[error("{path}: no attempt of a run has recorded its time there; give the folder of a run (run.folder)")]
    Absent {
        /// The run's folder.
        path: PathBuf,
    },
}

/// How a ledger is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The table of all time, and a line for each day.
    All,
    /// Also the table of each day.
    Days,
    /// JSON.
    Json,
}

/// Returns the ledger of the run in a folder.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn goodput(run: &Path, form: Form) -> Result<String, GoodputError> {
    let (ledger, num_unreadable) = read_ledger(run)?;
    let (table, interval) = (Table::of(&ledger), checkpoint_interval(&ledger));
    if form == Form::Json {
        let value = as_json(&ledger, &table, interval.as_ref(), num_unreadable);
        return Ok(serde_json::to_string_pretty(&value).unwrap_or_default() + "\n");
    }
    let mut text = String::new();
    for day in table.days.iter().filter(|_| form == Form::Days) {
        text += &format!("{} (UTC)\n{}\n", date(day), accounts(day));
    }
    Ok(text + &as_text(&ledger, &table, interval.as_ref(), num_unreadable))
}

/// Reads the ledger of the run in a folder. Also returns the number of lines that cannot be read.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn read_ledger(run: &Path) -> Result<(Ledger, usize), GoodputError> {
    let unreadable = |source| GoodputError::Unreadable { path: run.to_owned(), source };
    let (events, num_unreadable) = read_events(run).map_err(unreadable)?;
    if events.is_empty() {
        return Err(GoodputError::Absent { path: run.to_owned() });
    }
    Ok((Ledger::of(&events), num_unreadable))
}

/// Returns the share of steps that count in all time of the run, if it is recorded.
#[must_use]
pub fn share_of_steps(run: &Path) -> Option<f64> {
    let (ledger, _) = read_ledger(run).ok()?;
    Some(Table::of(&ledger).all.ratios().ettr)
}

/// Returns a time as the events of the ledger have it.
pub(crate) fn epoch_seconds(time: Timestamp) -> f64 {
    time.as_microsecond() as f64 / 1e6
}

/// Returns the date of a day: `2026-11-30`.
fn date(day: &Day) -> String {
    let text = Timestamp::from_second(day.number.saturating_mul(86_400)).map(|time| time.to_string());
    text.unwrap_or_default().chars().take(10).collect()
}

fn hours(seconds: f64) -> f64 {
    seconds / 3600.0
}

fn as_json(ledger: &Ledger, table: &Table, interval: Option<&CheckpointInterval>, num_unreadable: usize) -> Value {
    let day = |day: &Day| {
        let accounts: Map<String, Value> = Account::ALL
            .into_iter()
            .map(|account| {
                let seconds = json!({
                    "seconds": day.wall_clock[account],
                    "rank_hours": hours(day.ranks[account]),
                    "gpu_hours": hours(day.gpus[account]),
                });
                (json!(account).as_str().unwrap_or_default().to_owned(), seconds)
            })
            .collect();
        json!({"seconds": day.wall_clock.total(), "accounts": accounts, "ratios": day.ratios()})
    };
    let days: Map<String, Value> = table.days.iter().map(|of_day| (date(of_day), day(of_day))).collect();
    json!({
        "steps": ledger.step,
        "failures": ledger.failures,
        "saves": ledger.saves,
        "unreadable_lines": num_unreadable,
        "all": day(&table.all),
        "days": days,
        "checkpoint_interval": interval,
    })
}

/// Returns the accounts that have time in a day, or in all days, as a table.
fn accounts(day: &Day) -> String {
    let mut text = String::new();
    let total = day.wall_clock.total();
    let share = |seconds: f64| if total > 0.0 { 100.0 * seconds / total } else { 0.0 };
    let mut row = |name: &str, seconds: f64, ranks: f64, gpus: f64| {
        let [clock, ranks, gpus] = [seconds, ranks, gpus].map(hours);
        let _ = writeln!(text, "{name:<28} {:>7.2}% {clock:>12.3} {ranks:>12.3} {gpus:>12.3}", share(seconds));
    };
    for (account, seconds) in day.wall_clock.iter().filter(|(_, seconds)| *seconds > 0.0) {
        row(account.words(), seconds, day.ranks[account], day.gpus[account]);
    }
    row("all", total, day.ranks.total(), day.gpus.total());
    format!("{:<28} {:>8} {:>12} {:>12} {:>12}\n{text}", "account", "share", "hours", "rank-hours", "GPU-hours")
}

/// Returns a line for each day.
fn days(table: &Table) -> String {
    let mut text = format!(
        "{:<12} {:>10} {:>12} {:>10} {:>12} {:>12}\n",
        "day (UTC)", "steps", "failures", "down", "rank-hours", "GPU-hours"
    );
    for day in &table.days {
        let Shares { steps, failures, down } = day.shares();
        let [steps, failures, down] = [steps, failures, down].map(|share| 100.0 * share);
        let [ranks, gpus] = [day.ranks, day.gpus].map(|seconds| hours(seconds.total()));
        let _ =
            writeln!(text, "{:<12} {steps:>9.2}% {failures:>11.2}% {down:>9.2}% {ranks:>12.3} {gpus:>12.3}", date(day));
    }
    text
}

fn as_text(ledger: &Ledger, table: &Table, interval: Option<&CheckpointInterval>, num_unreadable: usize) -> String {
    let mut text = accounts(&table.all);
    let ratios = table.all.ratios();
    let _ = writeln!(
        text,
        "\n{} steps are done; {} failures, {} checkpoints\n\
         effective training time ratio (ETTR): {:.2} %\n\
         ML Productivity Goodput: scheduling {:.2} %, runtime {:.2} %",
        ledger.step,
        ledger.failures,
        ledger.saves,
        100.0 * ratios.ettr,
        100.0 * ratios.scheduling_goodput,
        100.0 * ratios.runtime_goodput
    );
    if let Some(interval) = interval {
        let _ = writeln!(
            text,
            "checkpoints: one in {:.0} s, each takes {:.2} s of training; with a failure in {:.2} h, one in {:.0} s is best \
             and gains {:.2} %",
            interval.current_seconds,
            interval.save_seconds,
            hours(interval.mean_time_between_failures),
            interval.best_seconds,
            100.0 * interval.gain
        );
    }
    if table.days.len() > 1 {
        text += "\n";
        text += &days(table);
    }
    if num_unreadable > 0 {
        let _ = writeln!(text, "\n{num_unreadable} lines cannot be read; a process was killed while it wrote them");
    }
    text
}

#[cfg(test)]
mod tests {
    use admiral_goodput::{Event, EventKind};

    use super::*;

    #[test]
    fn the_share_of_steps_is_known_once_time_is_recorded() {
        let run = tempfile::tempdir().expect("a folder");
        assert_eq!(share_of_steps(run.path()), None);
        let journal = admiral_goodput::Journal::start(run.path(), "launch-a").expect("a thread");
        for (time, kind) in [(1.7e9, EventKind::LaunchBegins), (1.7e9 + 5.0, EventKind::PreflightBegins)] {
            journal.append(Event { time, kind });
        }
        assert_eq!(journal.finish(std::time::Duration::from_secs(20)), None);
        assert_eq!(share_of_steps(run.path()), Some(0.0));
    }

    #[test]
    fn each_day_has_a_line_and_on_request_a_table() {
        let run = tempfile::tempdir().expect("a folder");
        let journal = admiral_goodput::Journal::start(run.path(), "attempt-a").expect("a thread");
        // Midnight, 2026-11-30.
        let midnight = 1_795_996_800.0;
        for (hours, kind) in [
            (-2.0, EventKind::RankBegins { world: 4, gpus: 2 }),
            (-1.0, EventKind::StageEnds { stage: admiral_goodput::Stage::FirstStep, step: None }),
            (3.0, EventKind::StepsEnd { step: 100, seconds: admiral_goodput::IntervalSeconds::default() }),
        ] {
            journal.append(Event { time: midnight + 3600.0 * hours, kind });
        }
        assert_eq!(journal.finish(std::time::Duration::from_secs(20)), None);
        let shown = |form| goodput(run.path(), form).expect("there is a ledger");
        let words = |text: &str| -> Vec<Vec<String>> {
            text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
        };
        let all = words(&shown(Form::All));
        for line in [
            "steps 80.00% 4.000 16.000 8.000",
            "all 100.00% 5.000 20.000 10.000",
            "2026-11-29 50.00% 0.00% 0.00% 8.000 4.000",
            "2026-11-30 100.00% 0.00% 0.00% 12.000 6.000",
        ] {
            let expected: Vec<&str> = line.split(' ').collect();
            assert!(all.iter().any(|found| *found == expected), "{line}: {all:?}");
        }
        let days = words(&shown(Form::Days));
        assert!(days.ends_with(&all) && days[0] == ["2026-11-29", "(UTC)"], "{days:?}");
        assert!(days.iter().any(|line| *line == ["steps", "50.00%", "1.000", "4.000", "2.000"]), "{days:?}");
        assert!(!shown(Form::Json).contains("(UTC)"));
    }
}
