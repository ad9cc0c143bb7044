//! The metrics of a launch.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use admiral_exposition::{Family, Health, Source, Table};
use admiral_goodput::Seconds;
use serde_json::json;

use super::families::{
    ACCOUNTS, ATTEMPT, BUILD, CAUSES, CHECKPOINT, EXIT_CODE, FAILURES, HOSTS_LEFT_OUT, IMAGES_PER_SECOND, INCIDENTS,
    PHASE_AGE, PLANNED, RANKS, RANKS_ALIVE, RANKS_SLOW, REMAINING, RESTARTS, STALL_TIMEOUT, STATE, STATES, STEP,
    STEP_AGE, name_of,
};
use crate::decide::Cause;
use crate::status::{Condition, State};

/// The metrics of a launch. The launcher records them, and other threads read them as a [`Source`]. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct LaunchMetrics(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    run_folder: String,
    /// The stall timeout, once the configuration is known.
    stall: Option<Duration>,
    state: Option<State>,
    incidents: BTreeMap<&'static str, u64>,
    num_left_out: usize,
    accounts: Vec<(String, f64)>,
    /// The largest step of all states.
    furthest: u64,
    /// The time of the first state with that step.
    stepped_at: Instant,
    /// The time since a rank entered a phase, and when it was read.
    phase_age: (f64, Instant),
}

impl LaunchMetrics {
    /// Creates the metrics of the run in `run_folder`.
    pub(crate) fn new(run_folder: &Path) -> Self {
        let folder = std::path::absolute(run_folder).unwrap_or_else(|_| run_folder.to_owned());
        Self(Arc::new(Mutex::new(Known {
            run_folder: folder.to_string_lossy().into_owned(),
            stall: None,
            state: None,
            incidents: CAUSES.into_iter().map(|cause| (cause, 0)).collect(),
            num_left_out: 0,
            accounts: Vec::new(),
            furthest: 0,
            stepped_at: Instant::now(),
            phase_age: (0.0, Instant::now()),
        })))
    }

    /// Returns the family that counts failures to serve or write these metrics.
    pub(crate) fn failures() -> Family {
        FAILURES
    }

    /// Records the time after which a run is stalled.
    pub(crate) fn stall_timeout(&self, stall: Duration) {
        self.lock().stall = Some(stall);
    }

    /// Records the state of the launch.
    pub(crate) fn state(&self, state: &State) {
        let mut known = self.lock();
        if state.step > known.furthest {
            (known.furthest, known.stepped_at) = (state.step, Instant::now());
        }
        if let Some(age) = youngest_phase(state) {
            known.phase_age = (age, Instant::now());
        }
        known.state = Some(state.clone());
    }

    /// Records a failure.
    pub(crate) fn incident(&self, cause: Cause) {
        *self.lock().incidents.entry(name_of(cause)).or_default() += 1;
    }

    /// Records the number of hosts that are not used any more.
    pub(crate) fn left_out(&self, num_hosts: usize) {
        self.lock().num_left_out = num_hosts;
    }

    /// Records what the run's time was spent on.
    pub(crate) fn accounts(&self, seconds: &Seconds) {
        let name = |account| json!(account).as_str().unwrap_or_default().to_owned();
        self.lock().accounts = seconds.iter().map(|(account, seconds)| (name(account), seconds)).collect();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for LaunchMetrics {
    fn table(&self) -> Table {
        self.lock().table()
    }

    fn health(&self) -> Health {
        self.lock().health()
    }
}

impl Known {
    fn table(&self) -> Table {
        let mut table = Table::new(&[("run", &self.run_folder)]);
        table.set_with(&BUILD, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        for (cause, count) in &self.incidents {
            table.set_with(&INCIDENTS, &[("cause", cause)], *count as f64);
        }
        table.set(&HOSTS_LEFT_OUT, self.num_left_out as f64);
        for (account, seconds) in &self.accounts {
            table.set_with(&ACCOUNTS, &[("account", account)], *seconds);
        }
        if let Some(stall) = self.stall {
            table.set(&STALL_TIMEOUT, stall.as_secs_f64());
        }
        table.set(&STEP_AGE, self.stepped_at.elapsed().as_secs_f64());
        table.set(&PHASE_AGE, self.seconds_in_phase());
        let Some(state) = &self.state else { return table };
        for (condition, name) in STATES {
            table.set_with(&STATE, &[("state", name)], f64::from(u8::from(condition == state.condition)));
        }
        table.set(&ATTEMPT, state.attempt as f64);
        table.set(&RESTARTS, state.restarts as f64);
        table.set(&RANKS, state.world as f64);
        table.set(&RANKS_ALIVE, num_alive(state) as f64);
        table.set(&RANKS_SLOW, state.slow.len() as f64);
        table.set(&STEP, state.step as f64);
        table.set(&PLANNED, state.last_step as f64);
        table.set(&CHECKPOINT, state.checkpoint_step as f64);
        let known = [
            (&IMAGES_PER_SECOND, state.images_per_second),
            (&REMAINING, state.seconds_left),
            (&EXIT_CODE, state.exit_code.map(f64::from)),
        ];
        for (family, value) in known {
            value.into_iter().for_each(|value| table.set(family, value));
        }
        table
    }

    fn health(&self) -> Health {
        let Some(state) = &self.state else {
            return Health { is_healthy: true, details: json!({ "state": "starting" }) };
        };
        // An evaluation or a save may last longer than the limit, while the ranks progress.
        let seconds_in_phase = self.seconds_in_phase();
        let is_late = self.stall.is_some_and(|stall| seconds_in_phase >= stall.as_secs_f64());
        let is_healthy = match state.condition {
            Condition::Preflight | Condition::Starting | Condition::Stopping => true,
            Condition::Training | Condition::Sampling => !is_late,
            Condition::Recovering => false,
            Condition::Ended => state.exit_code == Some(0),
        };
        let details = json!({
            "state": state.condition,
            "attempt": state.attempt,
            "restarts": state.restarts,
            "ranks": state.world,
            "ranks_alive": num_alive(state),
            "slow": state.slow,
            "step": state.step,
            "last_step": state.last_step,
            "checkpoint_step": state.checkpoint_step,
            "seconds_since_step": self.stepped_at.elapsed().as_secs_f64(),
            "phase_seconds": seconds_in_phase,
            "last_incident": state.last_incident,
            "exit_code": state.exit_code,
        });
        Health { is_healthy, details }
    }

    /// Returns the seconds since a rank entered a phase.
    fn seconds_in_phase(&self) -> f64 {
        let (age, read_at) = self.phase_age;
        age + read_at.elapsed().as_secs_f64()
    }
}

/// Returns the seconds since a rank entered a phase, if ranks have reported one. The records of an attempt that has failed
/// do not change any more.
fn youngest_phase(state: &State) -> Option<f64> {
    let is_current = !matches!(state.condition, Condition::Preflight | Condition::Recovering | Condition::Ended);
    let ages = state.ranks.iter().filter_map(|rank| Some(rank.ledger.as_ref()?.phase_seconds));
    ages.filter(|_| is_current).reduce(f64::min)
}

/// Returns the number of ranks whose process is alive. Between attempts and at the end there is none.
fn num_alive(state: &State) -> usize {
    if state.condition == Condition::Ended || state.next_start.is_some() {
        return 0;
    }
    // Z and X are the states of a process that has ended.
    state.ranks.iter().filter(|rank| rank.state.is_some_and(|state| !matches!(state, 'Z' | 'X'))).count()
}

#[cfg(test)]
mod tests {
    use admiral_contract::Reading;

    use super::*;
    use crate::incident::RankRecord;

    fn state(condition: Condition, step: u64) -> State {
        let rank = |(rank, state)| RankRecord { rank, host: "n0".into(), gpu: rank, state, ledger: None };
        let ranks = [Some('S'), Some('T'), Some('Z'), None].into_iter().enumerate().map(rank).collect();
        let launch = State::of_launch("l".into(), jiff::Timestamp::UNIX_EPOCH);
        State { condition, step, last_step: 100, world: 4, ranks, ..launch }
    }

    #[test]
    fn the_state_and_the_incidents_are_in_the_table() {
        let metrics = LaunchMetrics::new("/runs/a".as_ref());
        metrics.state(&state(Condition::Training, 7));
        metrics.incident(Cause::Exit(69));
        metrics.incident(Cause::Stalled);
        metrics.incident(Cause::Stalled);
        let table = metrics.table();
        assert_eq!(table.get(&STATE, &[("state", "training")]), Some(1.0));
        assert_eq!(table.get(&STATE, &[("state", "recovering")]), Some(0.0));
        let incidents = ["store", "stalled", "signal"].map(|cause| table.get(&INCIDENTS, &[("cause", cause)]));
        assert_eq!(incidents, [Some(1.0), Some(2.0), Some(0.0)]);
        assert_eq!((table.get(&RANKS_ALIVE, &[]), table.get(&STEP, &[])), (Some(2.0), Some(7.0)));
        assert_eq!(table.get(&IMAGES_PER_SECOND, &[]), None, "it is not known");
    }

    #[test]
    fn a_run_whose_ranks_stand_still_is_unhealthy() {
        let metrics = LaunchMetrics::new("/runs/a".as_ref());
        assert!(metrics.health().is_healthy);
        for (condition, is_healthy) in
            [(Condition::Starting, true), (Condition::Training, false), (Condition::Recovering, false)]
        {
            metrics.stall_timeout(Duration::ZERO);
            metrics.state(&state(condition, 7));
            assert_eq!(metrics.health().is_healthy, is_healthy, "{condition:?}");
        }
        metrics.stall_timeout(Duration::from_secs(3600));
        metrics.state(&state(Condition::Training, 8));
        let health = metrics.health();
        assert!(health.is_healthy && health.details["state"] == json!("training"), "{health:?}");
        metrics.state(&State { exit_code: Some(75), ..state(Condition::Ended, 8) });
        assert!(!metrics.health().is_healthy);
        assert_eq!(metrics.table().get(&EXIT_CODE, &[]), Some(75.0));
    }

    #[test]
    fn steps_that_are_done_again_are_no_progress() {
        let metrics = LaunchMetrics::new("/runs/a".as_ref());
        metrics.state(&state(Condition::Training, 7));
        let at = |metrics: &LaunchMetrics| metrics.lock().stepped_at;
        let first = at(&metrics);
        std::thread::sleep(Duration::from_millis(1));
        for step in [4, 5, 7] {
            metrics.state(&state(Condition::Training, step));
            assert_eq!(at(&metrics), first, "step {step} was done before");
        }
        metrics.state(&state(Condition::Training, 8));
        assert!(at(&metrics) > first, "the run progresses");
    }

    #[test]
    fn a_long_evaluation_is_healthy_while_a_rank_progresses() {
        let metrics = LaunchMetrics::new("/runs/a".as_ref());
        metrics.stall_timeout(Duration::from_secs(300));
        let with_phases = |condition, phases: [f64; 2]| {
            let mut state = state(condition, 7);
            for (rank, phase_seconds) in state.ranks.iter_mut().zip(phases) {
                rank.ledger = Some(Reading { phase_seconds, ..Reading::default() });
            }
            state
        };
        let age = || metrics.table().get(&PHASE_AGE, &[]).expect("it is always known");
        metrics.state(&with_phases(Condition::Training, [400.0, 350.0]));
        assert!(!metrics.health().is_healthy && age() >= 350.0, "{:?}", metrics.health());
        metrics.state(&with_phases(Condition::Recovering, [0.0, 0.0]));
        assert!(age() >= 350.0, "the ranks have ended");
        metrics.state(&with_phases(Condition::Training, [400.0, 3.0]));
        assert!(metrics.health().is_healthy && age() < 300.0, "{:?}", metrics.health());
    }
}
