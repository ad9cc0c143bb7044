//! The names of the launcher's metrics.

use admiral_contract::ExitCode;
use admiral_exposition::{Family, Unit};

use crate::decide::Cause;
use crate::status::Condition;

pub(super) const BUILD: Family = Family::gauge("admiral_launch_build_info", "The version, as a label; the value is 1.");
pub(super) const STATE: Family =
    Family::gauge("admiral_launch_state", "What the launcher does: 1 for its state, else 0.");
pub(super) const ATTEMPT: Family = Family::gauge("admiral_launch_attempt", "Number of the attempt, from 0.");
pub(super) const RESTARTS: Family = Family::counter("admiral_launch_restarts", "Restarts by this launcher.");
pub(super) const INCIDENTS: Family = Family::counter("admiral_launch_incidents", "Failures in this launch, by cause.");
pub(super) const RANKS: Family = Family::gauge("admiral_launch_ranks", "Ranks of the run.");
pub(super) const RANKS_ALIVE: Family = Family::gauge("admiral_launch_ranks_alive", "Ranks whose process is alive.");
pub(super) const RANKS_SLOW: Family =
    Family::gauge("admiral_launch_ranks_slow", "Ranks that are slower than the others.");
pub(super) const HOSTS_LEFT_OUT: Family =
    Family::gauge("admiral_launch_hosts_left_out", "Hosts that this launch does not use any more.");
pub(super) const STEP: Family =
    Family::gauge("admiral_launch_step", "Steps, or images of a sampling job, that are done.");
pub(super) const PLANNED: Family = Family::gauge("admiral_launch_planned_steps", "Last step, or images of the job.");
pub(super) const CHECKPOINT: Family = Family::gauge("admiral_launch_checkpoint_step", "Step of the newest checkpoint.");
pub(super) const IMAGES_PER_SECOND: Family =
    Family::gauge("admiral_launch_images_per_second", "Images per second, over all ranks; none while it is not known.");
pub(super) const REMAINING: Family =
    Family::gauge_in("admiral_launch_remaining", Unit::Seconds, "Time left at this speed; none while it is not known.");
pub(super) const STEP_AGE: Family = Family::gauge_in(
    "admiral_launch_step_age",
    Unit::Seconds,
    "Time since a step or image was done for the first time, or since the launch before the first.",
);
pub(super) const PHASE_AGE: Family = Family::gauge_in(
    "admiral_launch_phase_age",
    Unit::Seconds,
    "Time since a rank entered a phase, or since the launch before the first.",
);
pub(super) const STALL_TIMEOUT: Family = Family::gauge_in(
    "admiral_launch_stall_timeout",
    Unit::Seconds,
    "Time after which the launcher restarts a stalled run.",
);
pub(super) const EXIT_CODE: Family = Family::gauge("admiral_launch_exit_code", "Exit code of the launcher at its end.");
pub(super) const ACCOUNTS: Family = Family::gauge_in(
    "admiral_launch_goodput",
    Unit::Seconds,
    "What the time of the run was spent on, over all launches, by account.",
);
pub(super) const FAILURES: Family =
    Family::counter("admiral_launch_export_failures", "Failures to serve or write the launcher's metrics.");

/// The states with their names in `state.json`.
pub(super) const STATES: [(Condition, &str); 7] = [
    (Condition::Preflight, "preflight"),
    (Condition::Starting, "starting"),
    (Condition::Training, "training"),
    (Condition::Sampling, "sampling"),
    (Condition::Stopping, "stopping"),
    (Condition::Recovering, "recovering"),
    (Condition::Ended, "ended"),
];

/// The names of causes.
pub(super) const CAUSES: [&str; 12] = [
    "agent_lost",
    "bug",
    "corrupted",
    "diverged",
    "exit",
    "host_lost",
    "mpirun_died",
    "node",
    "signal",
    "stalled",
    "start",
    "store",
];

/// Returns the name of a cause.
pub(super) fn name_of(cause: Cause) -> &'static str {
    match cause {
        Cause::Exit(code) => match ExitCode::from_byte(code) {
            Some(ExitCode::Bug) => "bug",
            Some(ExitCode::Corrupted) => "corrupted",
            Some(ExitCode::Diverged) => "diverged",
            Some(ExitCode::Node) => "node",
            Some(ExitCode::Store) => "store",
            Some(ExitCode::Finished | ExitCode::Config | ExitCode::Preempted) | None => "exit",
        },
        Cause::Signal(_) => "signal",
        Cause::Stalled => "stalled",
        Cause::HostLost => "host_lost",
        Cause::AgentLost => "agent_lost",
        Cause::MpirunDied => "mpirun_died",
        Cause::Start => "start",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_their_names_in_the_state_file() {
        for (state, name) in STATES {
            assert_eq!(serde_json::json!(state), serde_json::json!(name));
        }
    }

    #[test]
    fn every_cause_is_listed() {
        let causes =
            [Cause::Signal(9), Cause::Stalled, Cause::HostLost, Cause::AgentLost, Cause::MpirunDied, Cause::Start];
        for cause in causes.into_iter().chain((0..=255).map(Cause::Exit)) {
            assert!(CAUSES.contains(&name_of(cause)), "{cause:?}");
        }
    }
}
