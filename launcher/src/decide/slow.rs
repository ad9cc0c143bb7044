//! Ranks that get on, but take longer than the others: everybody waits for them at every step.

use super::verdict::RankView;

/// A rank that takes long.
#[derive(Debug, Clone, PartialEq)]
pub struct Slow {
    /// Which.
    pub rank: usize,
    /// Seconds of its last step without its waits for the others.
    pub own_seconds: f64,
    /// Of the middle rank.
    pub median_seconds: f64,
    /// Whether it is reading data that takes it longer; else computing.
    pub reads: bool,
    /// For people.
    pub sentence: String,
}

/// A rank's own work of a step takes this much longer than the middle rank's: it is slow.
pub const FACTOR: f64 = 1.5;

/// The ranks whose own work takes more than [`FACTOR`] of the median of all, the slowest first.
#[must_use]
pub fn slow_ranks(ranks: &[RankView]) -> Vec<Slow> {
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
    let mut slow: Vec<Slow> = works
        .iter()
        .filter(|work| work.1 > FACTOR * median_own)
        .map(|&(rank, own, data)| {
            let reads = data - median_data > own - data - median_rest;
            let (what, took, usual) =
                if reads { ("reading data", data, median_data) } else { ("computing", own - data, median_rest) };
            let sentence = format!(
                "{} is slow: its own work of a step takes {own:.3} s, the middle rank's {median_own:.3} s; it spends \
             {took:.3} s {what} instead of {usual:.3} s",
                super::sentence::name(rank)
            );
            Slow { rank: rank.rank, own_seconds: own, median_seconds: median_own, reads, sentence }
        })
        .collect();
    slow.sort_by(|a, b| b.own_seconds.total_cmp(&a.own_seconds));
    slow
}

/// The lower one of two in the middle, so that of two ranks one can be slow.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}
