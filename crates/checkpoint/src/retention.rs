//! Retention: which checkpoints are kept and which are deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The rules by which checkpoints are kept. The others may be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// The number of newest checkpoints to keep. `None` keeps all.
    pub keep_last: Option<u64>,
    /// The number of checkpoints with the lowest FID to keep, of those with the same settings of the evaluation. As many of
    /// the newest ones that have not been evaluated are kept too, if they are newer than every evaluated one: their
    /// evaluation may be pending. 0 turns this off.
    pub keep_best: u64,
    /// Keeps the steps that are a multiple of this. 0 turns this off.
    pub keep_every: u64,
    /// Keeps these steps.
    pub keep_steps: BTreeSet<u64>,
}

/// The result of a checkpoint's evaluation by which it is ranked.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// What the value depends on besides the weights. Only scores with the same settings are compared.
    pub settings: String,
    /// The FID.
    pub fid: f64,
}

/// The reason why a checkpoint is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// All checkpoints are kept.
    All,
    /// It is the newest.
    Newest,
    /// It is among this number of newest checkpoints.
    Last(u64),
    /// It is among this number of checkpoints with the lowest FID.
    Best(u64),
    /// It has not been evaluated yet.
    NotEvaluated,
    /// Its step is a multiple of this.
    Every(u64),
    /// Its step is one of `keep_steps`.
    Named,
    /// A run was resumed from it.
    InUse,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => write!(f, "all are kept"),
            Self::Newest => write!(f, "the newest"),
            Self::Last(count) => write!(f, "among the last {count}"),
            Self::Best(count) => write!(f, "among the {count} with the lowest FID"),
            Self::NotEvaluated => write!(f, "not evaluated yet"),
            Self::Every(divisor) => write!(f, "every {divisor} steps"),
            Self::Named => write!(f, "named"),
            Self::InUse => write!(f, "a run resumed from it"),
        }
    }
}

impl Retention {
    /// Returns the steps among `published` that may be deleted, ascending. The newest step is never among them. Neither is
    /// `in_use`, the step that a run resumed from, because the run may have to resume from it again. `scores` are those of
    /// the evaluated steps, and are used only with `keep_best`.
    #[must_use]
    pub fn to_delete(&self, published: &BTreeSet<u64>, scores: &BTreeMap<u64, Score>, in_use: Option<u64>) -> Vec<u64> {
        published.iter().copied().filter(|&step| self.kept(step, published, scores, in_use).is_none()).collect()
    }

    /// Returns the largest number of checkpoints that are kept only because of their evaluation: the best ones, and those
    /// that have not been evaluated. Each change of the evaluation's settings can add as many best ones.
    #[must_use]
    pub fn most_for_evaluation(&self) -> u64 {
        self.keep_best.saturating_mul(2)
    }

    /// Returns an upper bound of the number of checkpoints that exist at the same time in a run of `steps` that saves every
    /// `save_interval` steps and after the last one. Without `keep_best` it is reached. Older checkpoints are deleted after the new one is published.
    #[must_use]
    pub fn most_at_once(&self, steps: u64, save_interval: u64) -> u64 {
        let num_saves = steps.div_ceil(save_interval);
        let (Some(keep_last), 1..) = (self.keep_last, num_saves) else { return num_saves };
        // The number of checkpoints that are never deleted only grows, so the maximum is at the last save. The n-th
        // checkpoint before the newest ones is at n intervals.
        let newer = keep_last.max(1).min(num_saves - 1);
        let older = num_saves - 1 - newer;
        let every = |step: u64| self.keep_every > 0 && step.is_multiple_of(self.keep_every);
        let num_every = older.checked_div(self.keep_every / gcd(self.keep_every, save_interval)).unwrap_or(0);
        let named = self.keep_steps.iter().filter(|&&step| {
            step.is_multiple_of(save_interval) && (1..=older).contains(&(step / save_interval)) && !every(step)
        });
        let others = newer + num_every + named.count() as u64 + 1;
        others.saturating_add(self.most_for_evaluation()).min(num_saves)
    }

    /// Returns why a step among `published` is kept, or `None` if it may be deleted. `scores` and `in_use` have the same
    /// meaning as for [`to_delete`](Self::to_delete).
    #[must_use]
    pub fn kept(
        &self,
        step: u64,
        published: &BTreeSet<u64>,
        scores: &BTreeMap<u64, Score>,
        in_use: Option<u64>,
    ) -> Option<Kept> {
        let Some(keep_last) = self.keep_last else { return Some(Kept::All) };
        let num_newer = published.range(step..).count().saturating_sub(1) as u64;
        if num_newer == 0 {
            Some(Kept::Newest)
        } else if num_newer < keep_last {
            Some(Kept::Last(keep_last))
        } else if in_use == Some(step) {
            Some(Kept::InUse)
        } else if self.keep_steps.contains(&step) {
            Some(Kept::Named)
        } else if self.keep_every > 0 && step.is_multiple_of(self.keep_every) {
            Some(Kept::Every(self.keep_every))
        } else {
            self.kept_for_evaluation(step, published, scores)
        }
    }

    /// Returns whether a step is among the best ones, or one of the newest that have not been evaluated.
    fn kept_for_evaluation(&self, step: u64, published: &BTreeSet<u64>, scores: &BTreeMap<u64, Score>) -> Option<Kept> {
        let evaluated = || published.iter().filter_map(|other| scores.get(other).map(|score| (*other, score)));
        if let Some(own) = scores.get(&step) {
            // Among equals, the newer one is better.
            let is_better = |other: u64, score: &Score| match score.fid.total_cmp(&own.fid) {
                std::cmp::Ordering::Equal => other > step,
                order => order.is_lt(),
            };
            let better =
                evaluated().filter(|(other, score)| score.settings == own.settings && is_better(*other, score));
            return ((better.count() as u64) < self.keep_best).then_some(Kept::Best(self.keep_best));
        }
        let is_newer = evaluated().all(|(other, _)| other < step);
        let pending = published.range(step..).skip(1).filter(|&other| !scores.contains_key(other));
        (is_newer && (pending.count() as u64) < self.keep_best).then_some(Kept::NotEvaluated)
    }
}

/// Returns the greatest common divisor. `b` must not be 0.
fn gcd(a: u64, b: u64) -> u64 {
    if a == 0 { b } else { gcd(b % a, a) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn deleted(retention: &Retention, published: &[u64], in_use: Option<u64>) -> Vec<u64> {
        retention.to_delete(&published.iter().copied().collect(), &BTreeMap::new(), in_use)
    }

    #[test]
    fn everything_is_kept_without_keep_last() {
        let retention = Retention { keep_every: 7, ..Retention::default() };
        assert!(deleted(&retention, &[1, 2, 3, 4], None).is_empty());
    }

    #[test]
    fn the_last_every_kth_and_named_ones_are_kept() {
        let retention =
            Retention { keep_last: Some(2), keep_every: 100, keep_steps: BTreeSet::from([30]), ..Retention::default() };
        assert_eq!(deleted(&retention, &[10, 30, 100, 110, 120, 130], None), [10, 110]);
        assert!(deleted(&retention, &[110, 120], None).is_empty());
        let published = BTreeSet::from([10, 30, 40, 100, 110, 120, 130]);
        let why = |step| retention.kept(step, &published, &BTreeMap::new(), Some(40));
        assert_eq!([130, 120, 100].map(why), [Some(Kept::Newest), Some(Kept::Last(2)), Some(Kept::Every(100))]);
        assert_eq!([40, 30, 10].map(why), [Some(Kept::InUse), Some(Kept::Named), None]);
        assert!(deleted(&retention, &[], None).is_empty());
    }

    #[test]
    fn the_maximum_number_is_that_of_a_simulated_run() {
        for keep_last in [None, Some(1), Some(3), Some(100)] {
            for keep_every in [0, 1, 10, 15, 30, 40] {
                let keep_steps = [0, 20, 25, 50, 60, 1000].into();
                let retention = Retention { keep_last, keep_every, keep_steps, ..Retention::default() };
                for (steps, interval) in (0..100_u64).flat_map(|steps| [(steps, 10), (steps, 7), (steps, 1)]) {
                    let saves = (1..=steps.div_ceil(interval)).map(|save| (save * interval).min(steps));
                    let (mut kept, mut most) = (BTreeSet::new(), 0);
                    for step in saves {
                        kept.insert(step);
                        most = most.max(kept.len() as u64);
                        for old in retention.to_delete(&kept, &BTreeMap::new(), None) {
                            kept.remove(&old);
                        }
                    }
                    assert_eq!(retention.most_at_once(steps, interval), most, "{retention:?} {steps} {interval}");
                }
            }
        }
        let most =
            |keep_last| Retention { keep_last, keep_every: 1 << 50, ..Retention::default() }.most_at_once(u64::MAX, 1);
        assert_eq!((most(None), most(Some(2))), (u64::MAX, (1 << 14) - 1 + 3));
    }

    fn scores(fids: &[(u64, f64)]) -> BTreeMap<u64, Score> {
        fids.iter().map(|&(step, fid)| (step, Score { settings: "a".into(), fid })).collect()
    }

    #[test]
    fn the_best_are_kept() {
        let retention = Retention { keep_last: Some(1), keep_best: 2, ..Retention::default() };
        let published = BTreeSet::from([10, 20, 30, 40, 50, 60]);
        let fids = scores(&[(10, 9.0), (20, 3.0), (30, 5.0), (40, 4.0), (50, 7.0), (60, 8.0)]);
        assert_eq!(retention.to_delete(&published, &fids, None), [10, 30, 50]);
        let why = |step| retention.kept(step, &published, &fids, None);
        assert_eq!([20, 30, 40, 60].map(why), [Some(Kept::Best(2)), None, Some(Kept::Best(2)), Some(Kept::Newest)]);
        // Of equal ones, the newer.
        let equal = scores(&published.iter().map(|&step| (step, 5.0)).collect::<Vec<_>>());
        assert_eq!(retention.to_delete(&published, &equal, None), [10, 20, 30, 40]);
        // Scores of steps that are gone do not count.
        let fids = scores(&[(5, 1.0), (6, 1.0), (10, 9.0), (60, 8.0)]);
        assert_eq!(retention.kept(10, &published, &fids, None), Some(Kept::Best(2)));
    }

    #[test]
    fn checkpoints_whose_evaluation_is_pending_are_kept() {
        let retention = Retention { keep_last: Some(1), keep_best: 2, ..Retention::default() };
        let published = BTreeSet::from([10, 20, 30, 40, 50, 60]);
        let deleted = |fids: &[(u64, f64)]| retention.to_delete(&published, &scores(fids), None);
        // The newest, 60, is kept anyway. 50 is the second that has no evaluation.
        assert_eq!(deleted(&[]), [10, 20, 30, 40]);
        assert_eq!(deleted(&[(10, 1.0), (20, 2.0), (30, 3.0)]), [30, 40]);
        // What was not evaluated before a newer one will not be any more.
        assert_eq!(deleted(&[(20, 2.0), (50, 3.0)]), [10, 30, 40]);
    }

    #[test]
    fn scores_with_other_settings_are_not_compared() {
        let retention = Retention { keep_last: Some(1), keep_best: 1, ..Retention::default() };
        let mut fids = scores(&[(10, 2.0), (20, 1.0)]);
        fids.extend([(30, 80.0), (40, 90.0)].map(|(step, fid)| (step, Score { settings: "b".into(), fid })));
        assert_eq!(retention.to_delete(&[10, 20, 30, 40, 50].into(), &fids, None), [10, 40]);
    }

    #[test]
    fn the_number_of_evaluated_checkpoints_is_bounded() {
        // Evaluations that are late, out of order, and sometimes missing.
        for (keep_last, keep_best, delay, every) in
            [(1, 1, 0, 1), (1, 3, 2, 1), (2, 2, 0, 4), (3, 5, 9, 2), (1, 2, 99, 1)]
        {
            let retention = Retention { keep_last: Some(keep_last), keep_best, ..Retention::default() };
            let (mut kept, mut fids, mut best) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
            for step in 1..=60_u64 {
                kept.insert(step);
                assert!(kept.len() as u64 <= retention.most_at_once(60, 1), "{retention:?}: {kept:?}");
                for old in retention.to_delete(&kept, &fids, None) {
                    kept.remove(&old);
                }
                let evaluated = step.saturating_sub(delay);
                if evaluated.is_multiple_of(every) && kept.contains(&evaluated) {
                    let fid = (evaluated * 37 % 61) as f64;
                    fids.extend(scores(&[(evaluated, fid)]));
                    best.push((fid, evaluated));
                }
            }
            best.sort_by(|a, b| a.partial_cmp(b).unwrap());
            for (_, step) in best.iter().take(keep_best as usize) {
                assert!(kept.contains(step), "{retention:?}: {step} of {best:?} is not among {kept:?}");
            }
        }
    }

    #[test]
    fn the_newest_and_the_step_in_use_are_never_deleted() {
        let retention = Retention { keep_last: Some(1), ..Retention::default() };
        assert_eq!(deleted(&retention, &[10, 20, 30], Some(20)), [10]);
        // Possible for a caller, although the configuration refuses it.
        let nothing = Retention { keep_last: Some(0), ..Retention::default() };
        assert_eq!(deleted(&nothing, &[10, 20], None), [10]);
    }
}
