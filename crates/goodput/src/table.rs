//! The ledger as a table: by day and in all.

use serde::Serialize;

use crate::account::{Account, Seconds};
use crate::ledger::Ledger;

const SECONDS_PER_DAY: f64 = 86_400.0;

/// The time of one day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Day {
    /// The number of days since 1970-01-01 in UTC.
    pub number: i64,
    /// The seconds of all ranks together.
    pub ranks: Seconds,
    /// The seconds of all GPUs together.
    pub gpus: Seconds,
    /// The seconds of the clock.
    pub wall_clock: Seconds,
}

/// The shares of time by the terms of others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratios {
    /// The share of productive steps in the time of the clock: the effective training time ratio, ETTR.
    pub ettr: f64,
    /// The share of time in which ranks were there: the scheduling goodput of ML Productivity Goodput.
    pub scheduling_goodput: f64,
    /// The share of productive steps in the time in which ranks were there: its runtime goodput.
    pub runtime_goodput: f64,
}

/// The shares of a day by groups of accounts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// Steps that count.
    pub steps: f64,
    /// Failures, and the steps that were done again after them.
    pub failures: f64,
    /// No ranks were there.
    pub down: f64,
}

/// The ledger by day and in all.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The days with time in them, in order.
    pub days: Vec<Day>,
    /// The sums over all days. Its number is that of the first day.
    pub all: Day,
}

impl Table {
    /// Makes the table of a ledger.
    #[must_use]
    pub fn of(ledger: &Ledger) -> Self {
        let mut days: Vec<Day> = Vec::new();
        for span in &ledger.spans {
            let mut start = span.start;
            while start < span.end {
                let number = (start / SECONDS_PER_DAY).floor();
                let end = span.end.min((number + 1.0) * SECONDS_PER_DAY);
                let number = number as i64;
                if days.last().is_none_or(|day| day.number != number) {
                    days.push(Day::empty(number));
                }
                if let Some(day) = days.last_mut() {
                    day.wall_clock[span.account] += end - start;
                    day.ranks[span.account] += (end - start) * span.ranks as f64;
                    day.gpus[span.account] += (end - start) * span.gpus as f64;
                }
                start = end;
            }
        }
        let mut all = Day::empty(days.first().map_or(0, |day| day.number));
        for day in &days {
            all.wall_clock += day.wall_clock;
            all.ranks += day.ranks;
            all.gpus += day.gpus;
        }
        Self { days, all }
    }
}

impl Day {
    fn empty(number: i64) -> Self {
        Self { number, ranks: Seconds::default(), gpus: Seconds::default(), wall_clock: Seconds::default() }
    }

    /// Returns the shares of groups of accounts; 0 if there is no time.
    #[must_use]
    pub fn shares(&self) -> Shares {
        let total = self.wall_clock.total();
        let share = |is_counted: fn(Account) -> bool| {
            let counted = self.wall_clock.iter().filter(|(account, _)| is_counted(*account));
            if total > 0.0 { counted.map(|(_, seconds)| seconds).sum::<f64>() / total } else { 0.0 }
        };
        Shares {
            steps: share(|account| account == Account::Productive),
            failures: share(|account| account.is_failure() || account == Account::Redone),
            down: share(|account| !account.is_held()),
        }
    }

    /// Returns the shares of this time; 0 where there is none.
    #[must_use]
    pub fn ratios(&self) -> Ratios {
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let total = self.wall_clock.total();
        let held: f64 =
            self.wall_clock.iter().filter(|(account, _)| account.is_held()).map(|(_, seconds)| seconds).sum();
        let productive = self.wall_clock[Account::Productive];
        Ratios {
            ettr: share(productive, total),
            scheduling_goodput: share(held, total),
            runtime_goodput: share(productive, held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Span;

    #[test]
    fn a_span_over_midnight_is_divided_and_counted_for_each_rank() {
        let spans = vec![
            Span { start: 86_000.0, end: 87_000.0, account: Account::Productive, ranks: 8, gpus: 4 },
            Span { start: 87_000.0, end: 88_000.0, account: Account::Down, ranks: 8, gpus: 4 },
        ];
        let table = Table::of(&Ledger { spans, ..Ledger::default() });
        let productive = |day: &Day| [day.wall_clock, day.ranks, day.gpus].map(|sums| sums[Account::Productive]);
        assert_eq!(table.days.iter().map(|day| day.number).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(productive(&table.days[0]), [400.0, 3200.0, 1600.0]);
        assert_eq!(productive(&table.days[1]), [600.0, 4800.0, 2400.0]);
        assert_eq!(productive(&table.all), [1000.0, 8000.0, 4000.0]);
        let ratios = table.all.ratios();
        let shares = table.all.shares();
        assert_eq!((shares.steps, shares.failures, shares.down), (0.5, 0.0, 0.5));
        assert_eq!((ratios.ettr, ratios.scheduling_goodput, ratios.runtime_goodput), (0.5, 0.5, 1.0));
    }
}
