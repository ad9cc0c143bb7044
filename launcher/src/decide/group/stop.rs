//! The outcome of a stop.

use admiral_contract::ExitCode;

use super::event::Outcome;
use super::member::Member;
use crate::decide::end::End;

/// The launcher's exit code if the ranks had to be killed.
pub(super) const FORCED_EXIT_CODE: u8 = 1;

/// The end of a rank that was asked to stop before it could handle the signal.
pub(super) const KILLED_BY_STOP: End = End::Signal(15);

/// Returns the outcome of a stop that some rank could not handle. Before the first step there is nothing to lose.
pub(super) fn stopped_early(members: &[Member]) -> Outcome {
    let readings = || members.iter().filter_map(|member| member.reading.as_ref());
    let has_stepped = readings().any(|reading| reading.step_seconds > 0.0);
    let (code, sentence) = if !has_stepped {
        (ExitCode::Preempted as u8, "asked to stop before its first step")
    } else if readings().any(|reading| reading.checkpoint_step > 0) {
        (ExitCode::Preempted as u8, "it was stopped, without another checkpoint")
    } else {
        (FORCED_EXIT_CODE, "it was stopped, without a checkpoint")
    };
    Outcome::Stopped { code, sentence: sentence.to_owned() }
}
