//! Ranks that make progress but take longer than the others. All ranks wait for them in every step.

use std::collections::BTreeMap;

use super::view::RankView;
use crate::job::JobKind;

/// A slow rank.
#[derive(Debug, Clone, PartialEq)]
pub struct SlowRank {
    /// The rank.
    pub rank: usize,
    /// The time of its last step without its waits for other ranks, in seconds.
    pub own_seconds: f64,
    /// The same of the median rank.
    pub median_seconds: f64,
    /// Whether it loses the time by reading data; if not, by computing.
    pub reads: bool,
    /// The description, for people.
    pub sentence: String,
}

/// A rank is slow if its own work of a step takes this many times as long as that of the median rank.
pub const FACTOR: f64 = 1.5;

/// Returns the ranks whose own work takes more than [`FACTOR`] times the median, the slowest first.
#[must_use]
pub fn slow_ranks(ranks: &[RankView], kind: JobKind) -> Vec<SlowRank> {
    let unit = match kind {
        JobKind::Train => "step",
        JobKind::Sample => "batch",
    };
    let works: Vec<(&RankView, f64, f64)> = ranks
        .iter()
        .filter_map(|rank| {
            let reading = rank.reading.as_ref().filter(|reading| reading.step_seconds > 0.0)?;
            let own = (reading.step_seconds - reading.wait_seconds).max(0.0);
            Some((rank, own, reading.data_seconds.min(own)))
        })
        .collect();
    let median_own = median(works.iter().map(|work| work.1));
    let median_data = median(works.iter().map(|work| work.2));
    let median_rest = median(works.iter().map(|work| work.1 - work.2));
    let mut slow: Vec<SlowRank> = works
        .iter()
        .filter(|work| median_own > 0.0 && work.1 > FACTOR * median_own)
        .map(|&(rank, own, data)| {
            let reads = data - median_data > own - data - median_rest;
            let (what, took, usual) =
                if reads { ("reading data", data, median_data) } else { ("computing", own - data, median_rest) };
            let sentence = format!(
                "{} is slow: its own work of a {unit} takes {own:.3} s, the middle rank's {median_own:.3} s; it spends \
             {took:.3} s {what} instead of {usual:.3} s",
                super::sentence::name(rank)
            );
            SlowRank { rank: rank.rank, own_seconds: own, median_seconds: median_own, reads, sentence }
        })
        .collect();
    slow.sort_by(|a, b| b.own_seconds.total_cmp(&a.own_seconds));
    slow
}

/// A rank is reported as slow once it was slow at this many looks in a row. One slow step is not worth a report.
const REPORTED_AFTER: u32 = 3;

/// Counts for how many looks in a row each rank has been slow.
#[derive(Debug, Default)]
pub struct SlowStreaks {
    looks: BTreeMap<usize, u32>,
}

impl SlowStreaks {
    /// Takes the slow ranks of another look, and returns those that have been slow for long enough to be reported.
    pub fn look<'a>(&mut self, slow: &'a [SlowRank]) -> Vec<&'a SlowRank> {
        self.looks.retain(|rank, _| slow.iter().any(|slow| slow.rank == *rank));
        for slow in slow {
            *self.looks.entry(slow.rank).or_default() += 1;
        }
        let lasts = |slow: &&SlowRank| self.looks.get(&slow.rank).is_some_and(|&looks| looks >= REPORTED_AFTER);
        slow.iter().filter(lasts).collect()
    }
}

/// Returns the lower of two middle values, so that one of two ranks can be slow.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use admiral_contract::Ledger;

    use super::*;

    fn rank(rank: usize, step: f64, data: f64, wait: f64) -> RankView {
        let empty = Ledger::private().read();
        let reading = admiral_contract::Reading { step_seconds: step, data_seconds: data, wait_seconds: wait, ..empty };
        RankView { rank, host: "n0".into(), gpu: Some(rank), reading: Some(reading), state: None, silent_seconds: 0.0 }
    }

    #[test]
    fn waiting_for_a_slow_rank_is_not_slow() {
        // All steps take as long as that of the slowest rank; only the waits show which rank that is.
        let ranks = [
            rank(0, 2.0, 0.1, 1.0),
            rank(1, 2.0, 1.1, 0.0),
            rank(2, 2.0, 0.1, 1.0),
            rank(3, 2.0, 0.1, 0.1),
            rank(4, 2.0, 0.1, 1.0),
        ];
        let slow = slow_ranks(&ranks, JobKind::Train);
        assert_eq!(slow.iter().map(|slow| (slow.rank, slow.reads)).collect::<Vec<_>>(), [(1, true), (3, false)]);
        let sentence = "rank 1 (n0, GPU 1) is slow: its own work of a step takes 2.000 s, the middle rank's 1.000 s; \
                        it spends 1.100 s reading data instead of 0.100 s";
        assert_eq!(slow[0].sentence, sentence);
        let of_batches = sentence.replace("a step", "a batch");
        assert_eq!(slow_ranks(&ranks, JobKind::Sample)[0].sentence, of_batches);
    }

    #[test]
    fn a_rank_is_reported_after_three_slow_looks_in_a_row() {
        let slow = slow_ranks(&[rank(0, 2.0, 0.0, 1.0), rank(1, 2.0, 0.0, 0.0)], JobKind::Train);
        let mut streaks = SlowStreaks::default();
        assert_eq!((streaks.look(&slow).len(), streaks.look(&slow).len(), streaks.look(&slow).len()), (0, 0, 1));
        assert_eq!((streaks.look(&[]).len(), streaks.look(&slow).len()), (0, 0));
    }

    #[test]
    fn one_of_two_ranks_can_be_slow() {
        assert_eq!(slow_ranks(&[rank(0, 2.0, 0.0, 1.0), rank(1, 2.0, 0.0, 0.0)], JobKind::Train)[0].rank, 1);
        assert_eq!(slow_ranks(&[rank(0, 2.0, 0.0, 0.0)], JobKind::Train), []);
        assert_eq!(slow_ranks(&[rank(0, 0.0, 0.0, 0.0), rank(1, 0.0, 0.0, 0.0)], JobKind::Train), []);
        assert_eq!(slow_ranks(&[], JobKind::Train), []);
    }
}
