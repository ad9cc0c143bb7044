//! The best time between two checkpoints.

use serde::Serialize;

use crate::account::Account;
use crate::ledger::Ledger;

/// The time between checkpoints that costs least, and what it would gain.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CheckpointInterval {
    /// The mean time between failures, in seconds of held ranks.
    pub mean_time_between_failures: f64,
    /// The time that training waits for one save, in seconds.
    pub save_seconds: f64,
    /// The time between two saves so far, in seconds.
    pub current_seconds: f64,
    /// The best time between two saves, in seconds: `sqrt(2 save_seconds mean_time_between_failures)` (Young 1974).
    pub best_seconds: f64,
    /// The fraction of time that the best interval would save.
    pub gain: f64,
}

/// Returns the best time between two checkpoints, from the failures and saves of a run so far; `None` before the first
/// failure or the second save.
#[must_use]
pub fn checkpoint_interval(ledger: &Ledger) -> Option<CheckpointInterval> {
    if ledger.failures == 0 || ledger.saves < 2 {
        return None;
    }
    let sums = ledger.wall_clock();
    let held: f64 = sums.iter().filter(|(account, _)| account.is_held()).map(|(_, seconds)| seconds).sum();
    let mean_time_between_failures = held / ledger.failures as f64;
    let save_seconds = sums[Account::Checkpoint] / ledger.saves as f64;
    let of_steps = [Account::Productive, Account::Redone, Account::DataWait, Account::StragglerWait, Account::Exchange];
    let stepping: f64 = of_steps.iter().map(|&account| sums[account]).sum();
    let current_seconds = stepping / ledger.saves as f64;
    let best_seconds = (2.0 * save_seconds * mean_time_between_failures).sqrt();
    // A save costs its time once in an interval. A failure costs half an interval.
    let cost = |interval: f64| save_seconds / interval + interval / (2.0 * mean_time_between_failures);
    let gain = cost(current_seconds) - cost(best_seconds);
    let interval = CheckpointInterval { mean_time_between_failures, save_seconds, current_seconds, best_seconds, gain };
    (best_seconds > 0.0 && gain.is_finite()).then_some(interval)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ledger::Span;

    fn ledger(checkpoint: f64, productive: f64, failures: u64, saves: u64) -> Ledger {
        let span = |start, end, account| Span { start, end, account, ranks: 1, gpus: 1 };
        let spans = vec![
            span(0.0, checkpoint, Account::Checkpoint),
            span(checkpoint, checkpoint + productive, Account::Productive),
        ];
        Ledger { spans, failures, saves, step: 9 }
    }

    #[test]
    fn rare_failures_ask_for_fewer_saves() {
        // 100 saves of 1 s in 10,000 s with 2 failures: a save every 100 s, and sqrt(2 * 1 * 5050) = 100.5 s is best.
        let found = checkpoint_interval(&ledger(100.0, 10_000.0, 2, 100)).unwrap();
        assert!((found.best_seconds - 100.5).abs() < 0.01 && found.gain.abs() < 1e-6, "{found:?}");
        let rare = checkpoint_interval(&ledger(100.0, 10_000.0, 1, 1000)).unwrap();
        assert!(rare.best_seconds > rare.current_seconds && rare.gain > 0.0, "{rare:?}");
        assert_eq!(checkpoint_interval(&ledger(100.0, 10_000.0, 0, 100)), None);
        assert_eq!(checkpoint_interval(&ledger(0.0, 10_000.0, 1, 100)), None);
    }
}
