//! The outcome of a stop.

use admiral_contract::ExitCode;

use super::event::Outcome;
use super::member::Member;
use crate::decide::end::End;
use crate::job::JobKind;

/// The launcher's exit code if the ranks had to be killed.
pub(super) const FORCED_EXIT_CODE: u8 = 1;

/// The end of a rank that was asked to stop before it could handle the signal.
pub(super) const KILLED_BY_STOP: End = End::Signal(15);

/// Returns the outcome of a stop that some rank could not handle. Before the first step there is nothing to lose, and
/// the images of a sampling job are stored as they are drawn.
pub(super) fn stopped_early(members: &[Member], kind: JobKind) -> Outcome {
    let readings = || members.iter().filter_map(|member| member.reading.as_ref());
    let (code, sentence) = match kind {
        JobKind::Sample if readings().any(|reading| reading.step > 0) => (ExitCode::Preempted as u8, kind.stopped()),
        JobKind::Train if readings().any(|reading| reading.step_seconds > 0.0) => {
            if readings().any(|reading| reading.checkpoint_step > 0) {
                (ExitCode::Preempted as u8, "it was stopped, without another checkpoint")
            } else {
                (FORCED_EXIT_CODE, "it was stopped, without a checkpoint")
            }
        }
        _ => (ExitCode::Preempted as u8, kind.stopped_early()),
    };
    Outcome::Stopped { code, sentence: sentence.to_owned() }
}
