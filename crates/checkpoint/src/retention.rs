//! Retention: which checkpoints are kept and which are deleted.

use std::collections::BTreeSet;
use std::fmt;

/// The rules by which checkpoints are kept. The others may be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// The number of newest checkpoints to keep. `None` keeps all.
    pub keep_last: Option<u64>,
    /// Keeps the steps that are a multiple of this. 0 turns this off.
    pub keep_every: u64,
    /// Keeps these steps.
    pub keep_steps: BTreeSet<u64>,
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
            Self::Every(divisor) => write!(f, "every {divisor} steps"),
            Self::Named => write!(f, "named"),
            Self::InUse => write!(f, "a run resumed from it"),
        }
    }
}

impl Retention {
    /// Returns the steps among `published` that may be deleted, ascending. The newest step is never among them. Neither is
    /// `in_use`, the step that a run resumed from, because the run may have to resume from it again.
    #[must_use]
    pub fn to_delete(&self, published: &BTreeSet<u64>, in_use: Option<u64>) -> Vec<u64> {
        published.iter().copied().filter(|&step| self.kept(step, published, in_use).is_none()).collect()
    }

    /// Returns the largest number of checkpoints that exist at the same time in a run of `steps` that saves every
    /// `save_interval` steps and after the last one. Older checkpoints are deleted after the new one is published.
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
        newer + num_every + named.count() as u64 + 1
    }

    /// Returns why a step among `published` is kept, or `None` if it may be deleted. `in_use` has the same meaning as for
    /// [`to_delete`](Self::to_delete).
    #[must_use]
    pub fn kept(&self, step: u64, published: &BTreeSet<u64>, in_use: Option<u64>) -> Option<Kept> {
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
            None
        }
    }
}

/// Returns the greatest common divisor. `b` must not be 0.
fn gcd(a: u64, b: u64) -> u64 {
    if a == 0 { b } else { gcd(b % a, a) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deleted(retention: &Retention, published: &[u64], in_use: Option<u64>) -> Vec<u64> {
        retention.to_delete(&published.iter().copied().collect(), in_use)
    }

    #[test]
    fn everything_is_kept_without_keep_last() {
        let retention = Retention { keep_every: 7, ..Retention::default() };
        assert!(deleted(&retention, &[1, 2, 3, 4], None).is_empty());
    }

    #[test]
    fn the_last_every_kth_and_named_ones_are_kept() {
        let retention = Retention { keep_last: Some(2), keep_every: 100, keep_steps: BTreeSet::from([30]) };
        assert_eq!(deleted(&retention, &[10, 30, 100, 110, 120, 130], None), [10, 110]);
        assert!(deleted(&retention, &[110, 120], None).is_empty());
        let published = BTreeSet::from([10, 30, 40, 100, 110, 120, 130]);
        let why = |step| retention.kept(step, &published, Some(40));
        assert_eq!([130, 120, 100].map(why), [Some(Kept::Newest), Some(Kept::Last(2)), Some(Kept::Every(100))]);
        assert_eq!([40, 30, 10].map(why), [Some(Kept::InUse), Some(Kept::Named), None]);
        assert!(deleted(&retention, &[], None).is_empty());
    }

    #[test]
    fn the_maximum_number_is_that_of_a_simulated_run() {
        for keep_last in [None, Some(1), Some(3), Some(100)] {
            for keep_every in [0, 1, 10, 15, 30, 40] {
                let retention = Retention { keep_last, keep_every, keep_steps: [0, 20, 25, 50, 60, 1000].into() };
                for (steps, interval) in (0..100_u64).flat_map(|steps| [(steps, 10), (steps, 7), (steps, 1)]) {
                    let saves = (1..=steps.div_ceil(interval)).map(|save| (save * interval).min(steps));
                    let (mut kept, mut most) = (BTreeSet::new(), 0);
                    for step in saves {
                        kept.insert(step);
                        most = most.max(kept.len() as u64);
                        for old in retention.to_delete(&kept, None) {
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

    #[test]
    fn the_newest_and_the_step_in_use_are_never_deleted() {
        let retention = Retention { keep_last: Some(1), ..Retention::default() };
        assert_eq!(deleted(&retention, &[10, 20, 30], Some(20)), [10]);
        // Possible for a caller, although the configuration refuses it.
        let nothing = Retention { keep_last: Some(0), ..Retention::default() };
        assert_eq!(deleted(&nothing, &[10, 20], None), [10]);
    }
}
