//! What a step takes on each rank: the spread for TensorBoard, and the name of a rank that the others wait for.

use std::time::{Duration, Instant};

use admiral_comm::{Collective, CollectiveError, StepSeconds};
use admiral_contract::host::host_name;

use crate::statistics::median;

/// A rank's own work is out of the ordinary from so many times the others' median on.
const OUTLIER: f64 = 1.5;

/// The time between two lines about ranks that are.
const PAUSE: Duration = Duration::from_secs(60);

/// This rank's times since the last log.
#[derive(Debug, Default)]
pub(super) struct RankTimes {
    sums: StepSeconds,
    num_steps: u32,
    said: Option<Instant>,
}

/// What the times of all ranks say.
#[derive(Debug, PartialEq)]
pub(super) struct RankStatistics {
    /// Names and values for TensorBoard.
    pub(super) scalars: Vec<(String, f64)>,
    /// The rank that the others wait for, in a sentence.
    pub(super) outlier: Option<String>,
}

/// The means of a rank over the steps of a log interval.
#[derive(Debug, Clone, PartialEq)]
struct OfRank {
    host: String,
    seconds: StepSeconds,
}

impl RankTimes {
    /// Counts a step of this rank.
    pub(super) fn add(&mut self, step: StepSeconds) {
        self.sums.step += step.step;
        self.sums.data += step.data;
        self.sums.wait += step.wait;
        self.num_steps += 1;
    }

    /// What all ranks have counted, then starts afresh; rank 0 gets it, where there are others. Every rank calls it.
    ///
    /// # Errors
    /// When ranks cannot be reached.
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
        let ranks: Vec<OfRank> = all.iter().map(|bytes| decode(bytes)).collect();
        let is_due = self.said.is_none_or(|said| now.duration_since(said) >= PAUSE);
        let outlier = outlier(&ranks).filter(|_| is_due);
        if outlier.is_some() {
            self.said = Some(now);
        }
        Ok(Some(RankStatistics { scalars: scalars(&ranks), outlier }))
    }
}

fn decode(bytes: &[u8]) -> OfRank {
    let number = |place: usize| {
        let bytes = bytes.get(8 * place..8 * place + 8).and_then(|bytes| bytes.try_into().ok());
        f64::from_le_bytes(bytes.unwrap_or_default())
    };
    let host = String::from_utf8_lossy(bytes.get(24..).unwrap_or_default()).into_owned();
    OfRank { host, seconds: StepSeconds { step: number(0), data: number(1), wait: number(2) } }
}

fn scalars(ranks: &[OfRank]) -> Vec<(String, f64)> {
    let of_kind = |kind: fn(&StepSeconds) -> f64| ranks.iter().map(|rank| kind(&rank.seconds)).collect::<Vec<f64>>();
    [("step", of_kind(|of| of.step)), ("data", of_kind(|of| of.data)), ("wait", of_kind(|of| of.wait))]
        .into_iter()
        .flat_map(|(kind, values)| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let values = [("min", least), ("median", median(values.into_iter())), ("max", most)];
            values.map(|(name, value)| (format!("ranks/{kind}_seconds/{name}"), value))
        })
        .collect()
}

/// The rank whose own work takes longest, where that is far more than the others' takes.
fn outlier(ranks: &[OfRank]) -> Option<String> {
    let own: Vec<f64> = ranks.iter().map(|rank| rank.seconds.step - rank.seconds.wait).collect();
    let slowest = (0..own.len()).max_by(|&a, &b| own[a].total_cmp(&own[b]))?;
    let others = median(own.iter().enumerate().filter(|(rank, _)| *rank != slowest).map(|(_, own)| *own));
    let OfRank { host, seconds } = &ranks[slowest];
    (own[slowest] > OUTLIER * others).then(|| {
        format!(
            "rank {slowest} ({host}) is slow: its own work takes {:.3} s a step ({:.3} s of that for data), {:.1} times \
             the median of the others, which wait for it",
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

    fn ranks(times: &[(f64, f64, f64)]) -> Vec<OfRank> {
        let of_rank = |(number, &(step, data, wait)): (usize, &(f64, f64, f64))| OfRank {
            host: format!("node{number}"),
            seconds: StepSeconds { step, data, wait },
        };
        times.iter().enumerate().map(of_rank).collect()
    }

    #[test]
    fn the_rank_that_others_wait_for_is_named_and_they_are_not() {
        // All steps take as long; only who waits less is at work.
        let text = outlier(&ranks(&[(2.0, 0.1, 1.0), (2.0, 0.9, 0.1), (2.0, 0.1, 1.1)])).unwrap();
        assert!(text.starts_with("rank 1 (node1) is slow: its own work takes 1.900 s a step (0.900 s of"), "{text}");
        assert!(text.contains("2.0 times"), "{text}");
        assert_eq!(outlier(&ranks(&[(2.0, 0.1, 1.0), (2.0, 0.1, 0.6), (2.0, 0.1, 1.1)])), None);
        assert!(outlier(&ranks(&[(2.0, 0.0, 0.1), (2.0, 0.0, 1.5)])).unwrap().starts_with("rank 0 (node0)"));
    }

    #[test]
    fn the_spread_has_ends_and_middle() {
        let scalars = scalars(&ranks(&[(2.0, 0.1, 1.0), (2.2, 0.9, 0.0), (2.1, 0.2, 1.1)]));
        let value = |name: &str| scalars.iter().find(|(key, _)| key == name).unwrap().1;
        assert_eq!(["min", "median", "max"].map(|end| value(&format!("ranks/step_seconds/{end}"))), [2.0, 2.1, 2.2]);
        assert_eq!(value("ranks/wait_seconds/median"), 1.0);
        assert_eq!(scalars.len(), 9);
    }
}
