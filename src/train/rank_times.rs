//! The time of a step on each rank: its spread for TensorBoard, and a warning that names a slow rank.

use std::time::{Duration, Instant};

use admiral_comm::{Collective, CollectiveError, StepSeconds};
use admiral_contract::host::host_name;

use crate::statistics::median;

/// A rank is slow if its own work takes more than this many times the median of the other ranks.
const SLOW_RATIO: f64 = 1.5;

/// The minimum time between two warnings about slow ranks.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The sums of this rank's times since the last log.
#[derive(Debug, Default)]
pub(super) struct RankTimes {
    sums: StepSeconds,
    num_steps: u32,
    last_warning: Option<Instant>,
}

/// The statistics of all ranks' times.
#[derive(Debug, PartialEq)]
pub(super) struct RankStatistics {
    /// The names and values for TensorBoard.
    pub(super) scalars: Vec<(String, f64)>,
    /// The times of each rank.
    pub(super) ranks: Vec<RankMeans>,
    /// A sentence that names the slow rank, if there is one.
    pub(super) outlier: Option<String>,
}

/// The mean times of a rank over the steps of a log interval.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RankMeans {
    host: String,
    pub(super) seconds: StepSeconds,
}

impl RankTimes {
    /// Adds a step of this rank.
    pub(super) fn add(&mut self, step: StepSeconds) {
        self.sums.step += step.step;
        self.sums.data += step.data;
        self.sums.wait += step.wait;
        self.num_steps += 1;
    }

    /// Returns the statistics of all ranks on rank 0, if there is more than one rank, and resets the sums. Every rank
    /// calls it.
    ///
    /// # Errors
    /// When the ranks cannot reach each other.
    pub(super) fn take(
        &mut self,
        collective: &dyn Collective,
        now: Instant,
    ) -> Result<Option<RankStatistics>, CollectiveError> {
        let (sums, count) = (std::mem::take(&mut self.sums), std::mem::take(&mut self.num_steps));
        if collective.world_size() == 1 || count == 0 {
            return Ok(None);
        }
        let means = [sums.step, sums.data, sums.wait].map(|sum| sum / f64::from(count));
        let mut bytes: Vec<u8> = means.iter().flat_map(|mean| mean.to_le_bytes()).collect();
        bytes.extend(host_name().as_bytes());
        let Some(all) = collective.gather(0, &bytes)? else { return Ok(None) };
        let ranks: Vec<RankMeans> = all.iter().map(|bytes| decode(bytes)).collect();
        let is_due = self.last_warning.is_none_or(|last| now.duration_since(last) >= WARNING_INTERVAL);
        let outlier = outlier(&ranks).filter(|_| is_due);
        if outlier.is_some() {
            self.last_warning = Some(now);
        }
        Ok(Some(RankStatistics { scalars: scalars(&ranks), ranks, outlier }))
    }
}

fn decode(bytes: &[u8]) -> RankMeans {
    let number = |index: usize| {
        let bytes = bytes.get(8 * index..8 * index + 8).and_then(|bytes| bytes.try_into().ok());
        f64::from_le_bytes(bytes.unwrap_or_default())
    };
    let host = String::from_utf8_lossy(bytes.get(24..).unwrap_or_default()).into_owned();
    RankMeans { host, seconds: StepSeconds { step: number(0), data: number(1), wait: number(2) } }
}

fn scalars(ranks: &[RankMeans]) -> Vec<(String, f64)> {
    let all = |kind: fn(&StepSeconds) -> f64| ranks.iter().map(|rank| kind(&rank.seconds)).collect::<Vec<f64>>();
    [
        ("step", all(|seconds| seconds.step)),
        ("data", all(|seconds| seconds.data)),
        ("wait", all(|seconds| seconds.wait)),
    ]
    .into_iter()
    .flat_map(|(kind, values)| {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let values = [("min", least), ("median", median(values.into_iter())), ("max", most)];
        values.map(|(name, value)| (format!("ranks/{kind}_seconds/{name}"), value))
    })
    .collect()
}

/// Returns a sentence about the rank whose own work takes longest, if it takes much longer than on the other ranks.
fn outlier(ranks: &[RankMeans]) -> Option<String> {
    let own: Vec<f64> = ranks.iter().map(|rank| rank.seconds.step - rank.seconds.wait).collect();
    let slowest = (0..own.len()).max_by(|&a, &b| own[a].total_cmp(&own[b]))?;
    let others = median(own.iter().enumerate().filter(|(rank, _)| *rank != slowest).map(|(_, own)| *own));
    let RankMeans { host, seconds } = &ranks[slowest];
    (own[slowest] > SLOW_RATIO * others).then(|| {
        format!(
            "rank {slowest} ({host}) is slow: its own work takes {:.3} s a step ({:.3} s of that for data), {:.1} \
             times the median of the others, which wait for it",
            own[slowest],
            seconds.data,
            own[slowest] / others
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ranks(times: &[(f64, f64, f64)]) -> Vec<RankMeans> {
        let means = |(number, &(step, data, wait)): (usize, &(f64, f64, f64))| RankMeans {
            host: format!("node{number}"),
            seconds: StepSeconds { step, data, wait },
        };
        times.iter().enumerate().map(means).collect()
    }

    #[test]
    fn only_the_rank_that_the_others_wait_for_is_slow() {
        // All steps take equally long. The slow rank is the one that waits least.
        let text = outlier(&ranks(&[(2.0, 0.1, 1.0), (2.0, 0.9, 0.1), (2.0, 0.1, 1.1)])).unwrap();
        assert!(text.starts_with("rank 1 (node1) is slow: its own work takes 1.900 s a step (0.900 s of"), "{text}");
        assert!(text.contains("2.0 times"), "{text}");
        assert_eq!(outlier(&ranks(&[(2.0, 0.1, 1.0), (2.0, 0.1, 0.6), (2.0, 0.1, 1.1)])), None);
        assert!(outlier(&ranks(&[(2.0, 0.0, 0.1), (2.0, 0.0, 1.5)])).unwrap().starts_with("rank 0 (node0)"));
    }

    #[test]
    fn scalars_have_minimum_median_and_maximum() {
        let scalars = scalars(&ranks(&[(2.0, 0.1, 1.0), (2.2, 0.9, 0.0), (2.1, 0.2, 1.1)]));
        let value = |name: &str| scalars.iter().find(|(key, _)| key == name).unwrap().1;
        assert_eq!(["min", "median", "max"].map(|end| value(&format!("ranks/step_seconds/{end}"))), [2.0, 2.1, 2.2]);
        assert_eq!(value("ranks/wait_seconds/median"), 1.0);
        assert_eq!(scalars.len(), 9);
    }
}
