//! The kinds of jobs, and what differs between them.

use admiral_contract::{Phase, Reading, largest_world_size};
use serde::{Deserialize, Serialize};

/// What the ranks of a job do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// They train. A ledger counts steps, and all ranks are in the same step.
    #[default]
    Train,
    /// They draw images. A ledger counts the finished images of its rank's own share.
    Sample,
}

/// What the ranks of a job do, with what limits their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// They train, and share each batch equally.
    Train {
        /// The number of samples of a step over all ranks.
        global_batch: u64,
        /// The largest number of samples of one pass on one rank.
        microbatch: u64,
    },
    /// They draw images. Any number of ranks can share them.
    Sample,
}

impl Work {
    /// Returns the kind of the job.
    #[must_use]
    pub fn kind(self) -> JobKind {
        match self {
            Self::Train { .. } => JobKind::Train,
            Self::Sample => JobKind::Sample,
        }
    }

    /// Returns the largest number of ranks, up to `most`, that can share the work.
    #[must_use]
    pub fn largest_world(self, most: usize) -> Option<usize> {
        match self {
            Self::Train { global_batch, microbatch } => {
                largest_world_size(global_batch, microbatch, most as u64).and_then(|world| usize::try_from(world).ok())
            }
            Self::Sample => (most > 0).then_some(most),
        }
    }
}

impl JobKind {
    /// Describes where a rank is by the counter of its ledger: "in step 812", "after 812 images".
    #[must_use]
    pub fn place(self, count: u64) -> String {
        match (self, count) {
            (Self::Train, 0) => "before its first step".to_owned(),
            (Self::Train, step) => format!("in step {step}"),
            (Self::Sample, 0) => "before its first image".to_owned(),
            (Self::Sample, images) => format!("after {}", self.amount(images)),
        }
    }

    /// Returns the unit of the job: "step" or "image".
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Train => "step",
            Self::Sample => "image",
        }
    }

    /// Returns "1 step", "7 steps", "1 image" or "7 images".
    #[must_use]
    pub fn amount(self, count: u64) -> String {
        let unit = self.unit();
        if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
    }

    /// Describes what a rank does, for messages: "it has been ... for 94 s".
    pub(crate) fn doing(self, phase: Phase) -> &'static str {
        match (self, phase) {
            (Self::Sample, Phase::Checkpoint) => "storing images",
            _ => phase.doing(),
        }
    }

    /// Returns the count of the whole group from the counts of its ranks.
    pub(crate) fn total(self, counts: impl Iterator<Item = u64>) -> u64 {
        match self {
            Self::Train => counts.max().unwrap_or(0),
            Self::Sample => counts.fold(0, u64::saturating_add),
        }
    }

    /// Returns whether a rank has begun with its work.
    pub(crate) fn has_begun(self, reading: &Reading) -> bool {
        match self {
            Self::Train => reading.step > 0,
            // The share of a rank may be empty.
            Self::Sample => reading.last_step > 0 || reading.phase != Phase::Start,
        }
    }

    /// What the ranks do once they are asked to stop.
    #[must_use]
    pub fn when_stopped(self) -> &'static str {
        match self {
            Self::Train => "the ranks publish a checkpoint",
            Self::Sample => "the ranks leave, and the images that are stored are kept",
        }
    }

    /// The outcome of a stop that worked.
    #[must_use]
    pub fn stopped(self) -> &'static str {
        match self {
            Self::Train => "it was stopped, with a checkpoint",
            Self::Sample => "it was stopped; the images that are stored are kept",
        }
    }

    /// The outcome of a stop before there was anything to lose.
    #[must_use]
    pub fn stopped_early(self) -> &'static str {
        match self {
            Self::Train => "asked to stop before its first step",
            Self::Sample => "asked to stop before its first image",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn counts_are_described_in_the_unit_of_the_job() {
        let places = |kind: JobKind| [0, 1, 812].map(|count| kind.place(count));
        assert_eq!(places(JobKind::Train), ["before its first step", "in step 1", "in step 812"]);
        assert_eq!(places(JobKind::Sample), ["before its first image", "after 1 image", "after 812 images"]);
    }

    #[test]
    fn ranks_share_steps_and_divide_images() {
        assert_eq!(JobKind::Train.total([4, 4, 3].into_iter()), 4);
        assert_eq!(JobKind::Sample.total([4, 4, 3].into_iter()), 11);
    }

    #[test]
    fn any_number_of_ranks_can_draw() {
        let train = Work::Train { global_batch: 64, microbatch: 4 };
        assert_eq!((train.largest_world(7), train.largest_world(0)), (Some(4), None));
        assert_eq!((Work::Sample.largest_world(7), Work::Sample.largest_world(0)), (Some(7), None));
    }

    #[test]
    fn a_rank_without_a_share_has_begun_when_it_waits_for_the_others() {
        let waits = Reading { phase: Phase::Exchange, ..Reading::default() };
        assert!(JobKind::Sample.has_begun(&waits) && !JobKind::Train.has_begun(&waits));
        assert!(!JobKind::Sample.has_begun(&Reading::default()));
    }

    #[test]
    fn the_kind_is_named_in_files() {
        assert_eq!(serde_json::to_string(&JobKind::Sample).unwrap(), "\"sample\"");
    }
}
