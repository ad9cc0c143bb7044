//! What a group comes to that ended without a failure: by itself, or because it was asked to.

use admiral_contract::ExitCode;

use super::{End, FORCED, Group, Outcome};

/// The end of a rank that was asked to stop before it could heed that.
pub(super) const STOPPED: End = End::Signal(15);

impl Group {
    pub(super) fn is_asked(&self) -> bool {
        self.stop.is_some_and(|(asked, _)| asked)
    }

    /// Whether the launcher's own signal ended a rank.
    pub(super) fn is_cut_short(&self) -> bool {
        self.is_asked() && self.seats.iter().any(|seat| seat.ended == Some(STOPPED))
    }

    fn has_stepped(&self) -> bool {
        self.seats.iter().filter_map(|seat| seat.reading.as_ref()).any(|reading| reading.step_seconds > 0.0)
    }

    /// What a stop that some rank did not heed makes of the group: before the first step there is nothing to lose.
    pub(super) fn stopped_early(&self) -> Outcome {
        let readings = || self.seats.iter().filter_map(|seat| seat.reading.as_ref());
        let (code, sentence) = if !self.has_stepped() {
            (ExitCode::Preempted as u8, "asked to stop before its first step")
        } else if readings().any(|reading| reading.checkpoint_step > 0) {
            (ExitCode::Preempted as u8, "it was stopped, without another checkpoint")
        } else {
            (FORCED, "it was stopped, without a checkpoint")
        };
        Outcome::Stopped { code, sentence: sentence.to_owned() }
    }

    /// What all ranks' exits with 0 or 75 make of the group.
    pub(super) fn good_end(&self) -> Outcome {
        let preempted = End::Code(ExitCode::Preempted as u8);
        let Some(rank) = self.seats.iter().position(|seat| seat.ended == Some(preempted)) else {
            return if self.is_cut_short() { self.stopped_early() } else { Outcome::AllEnded };
        };
        if self.is_asked() {
            let sentence = "it was stopped, with a checkpoint".to_owned();
            return Outcome::Stopped { code: ExitCode::Preempted as u8, sentence };
        }
        self.outcome(self.failure_of(rank, preempted))
    }
}
