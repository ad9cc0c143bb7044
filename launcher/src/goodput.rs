//! The command `admiral-launch goodput`: what the time of a run was spent on.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use admiral_goodput::{Account, CheckpointInterval, Day, Ledger, Table, checkpoint_interval, read_events};
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

/// Returns the ledger of the run in a folder, as a table or as JSON.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn goodput(run: &Path, is_json: bool) -> Result<String, GoodputError> {
    let (ledger, num_unreadable) = read_ledger(run)?;
    let (table, interval) = (Table::of(&ledger), checkpoint_interval(&ledger));
    Ok(if is_json {
        let value = as_json(&ledger, &table, interval.as_ref(), num_unreadable);
        serde_json::to_string_pretty(&value).unwrap_or_default() + "\n"
    } else {
        as_text(&ledger, &table, interval.as_ref(), num_unreadable)
    })
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

fn as_text(ledger: &Ledger, table: &Table, interval: Option<&CheckpointInterval>, num_unreadable: usize) -> String {
    let mut text = String::new();
    let total = table.all.wall_clock.total();
    let share = |seconds: f64| if total > 0.0 { 100.0 * seconds / total } else { 0.0 };
    let _ = writeln!(text, "{:<28} {:>8} {:>12} {:>12} {:>12}", "account", "share", "hours", "rank-hours", "GPU-hours");
    for (account, seconds) in table.all.wall_clock.iter().filter(|(_, seconds)| *seconds > 0.0) {
        let (ranks, gpus) = (hours(table.all.ranks[account]), hours(table.all.gpus[account]));
        let (name, share, hours) = (account.words(), share(seconds), hours(seconds));
        let _ = writeln!(text, "{name:<28} {share:>7.2}% {hours:>12.3} {ranks:>12.3} {gpus:>12.3}");
    }
    let sums = [table.all.wall_clock.total(), table.all.ranks.total(), table.all.gpus.total()].map(hours);
    let _ =
        writeln!(text, "{:<28} {:>7.2}% {:>12.3} {:>12.3} {:>12.3}", "all", share(total), sums[0], sums[1], sums[2]);
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
        let _ = writeln!(text, "\n{:<12} {:>10} {:>12} {:>10}", "day (UTC)", "steps", "failures", "down");
        for day in &table.days {
            let of_day = day.wall_clock.total();
            let share = |account| 100.0 * day.wall_clock[account] / of_day;
            let failed = share(Account::Failure) + share(Account::Redone);
            let down = share(Account::Down) + share(Account::Preempted);
            let _ =
                writeln!(text, "{:<12} {:>9.2}% {failed:>11.2}% {down:>9.2}%", date(day), share(Account::Productive));
        }
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
}
