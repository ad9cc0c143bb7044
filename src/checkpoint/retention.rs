//! Which checkpoints are kept.

use std::collections::BTreeSet;

/// Which checkpoints are kept; the others may be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// The newest so many; none keeps all.
    pub keep_last: Option<u64>,
    /// Steps that this divides; 0 names none.
    pub keep_every: u64,
    /// These steps.
    pub keep_steps: BTreeSet<u64>,
}

impl Retention {
    /// The steps among `published` that may be deleted, ascending. `in_use` is never among them: a run resumed from it
    /// and may have to again. The newest is kept whatever the rules say.
    #[must_use]
    pub fn to_delete(&self, published: &BTreeSet<u64>, in_use: Option<u64>) -> Vec<u64> {
        let Some(keep_last) = self.keep_last else { return Vec::new() };
        let num_older = published.len().saturating_sub(usize::try_from(keep_last.max(1)).unwrap_or(usize::MAX));
        let is_kept = |step: u64| {
            (self.keep_every > 0 && step.is_multiple_of(self.keep_every))
                || self.keep_steps.contains(&step)
                || in_use == Some(step)
        };
        published.iter().copied().take(num_older).filter(|&step| !is_kept(step)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deleted(retention: &Retention, published: &[u64], in_use: Option<u64>) -> Vec<u64> {
        retention.to_delete(&published.iter().copied().collect(), in_use)
    }

    #[test]
    fn everything_is_kept_unless_a_number_is_given() {
        let retention = Retention { keep_every: 7, ..Retention::default() };
        assert!(deleted(&retention, &[1, 2, 3, 4], None).is_empty());
    }

    #[test]
    fn the_last_every_kth_and_named_ones_are_kept() {
        let retention = Retention { keep_last: Some(2), keep_every: 100, keep_steps: BTreeSet::from([30]) };
        assert_eq!(deleted(&retention, &[10, 30, 100, 110, 120, 130], None), [10, 110]);
        assert!(deleted(&retention, &[110, 120], None).is_empty());
        assert!(deleted(&retention, &[], None).is_empty());
    }

    #[test]
    fn what_a_run_was_resumed_from_and_the_newest_are_never_deleted() {
        let retention = Retention { keep_last: Some(1), ..Retention::default() };
        assert_eq!(deleted(&retention, &[10, 20, 30], Some(20)), [10]);
        // As a caller could write it, though no configuration can.
        let nothing = Retention { keep_last: Some(0), ..Retention::default() };
        assert_eq!(deleted(&nothing, &[10, 20], None), [10]);
    }
}
