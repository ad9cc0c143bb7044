//! `launch/state.json`: where a run stands, for `admiral-launch status` and for programs.

use std::collections::VecDeque;

use admiral_contract::host;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::incident::RankRecord;

/// What a launch is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Hosts are examined.
    Preflight,
    /// Ranks are being started, or get ready.
    Starting,
    /// Steps are taken.
    Training,
    /// It was asked to stop; a checkpoint is being published.
    Stopping,
    /// Something failed: the group is taken down, or the next attempt waits.
    Recovering,
    /// It is over.
    Ended,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Preflight => "examining the hosts",
            Self::Starting => "starting",
            Self::Training => "training",
            Self::Stopping => "stopping",
            Self::Recovering => "recovering",
            Self::Ended => "ended",
        })
    }
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Which launch.
    pub launch_id: String,
    /// Where its launcher runs.
    pub launcher_host: String,
    /// The launcher's process there.
    pub launcher_pid: u32,
    /// When that process was started, in its kernel's ticks since the boot.
    #[serde(default)]
    pub launcher_start: Option<u64>,
    /// When the launch began.
    pub started: Timestamp,
    /// When this was written. A launcher that lives writes it every second.
    pub updated: Timestamp,
    /// What it does.
    pub condition: Condition,
    /// When the next attempt is started, while it is waited for.
    #[serde(default)]
    pub next_start: Option<Timestamp>,
    /// The attempt under way, from 0.
    pub attempt: u64,
    /// Restarts of this launch.
    pub restarts: u64,
    /// Ranks.
    pub world: usize,
    /// The hosts in use.
    pub hosts: Vec<String>,
    /// Steps that are done.
    pub step: u64,
    /// The run's last step; 0 until it is known.
    pub last_step: u64,
    /// Over all ranks, in the last half minute; none until it is known.
    pub images_per_second: Option<f64>,
    /// Until the last step, at this rate.
    pub seconds_left: Option<f64>,
    /// The step of the newest checkpoint that this run has published or begun from.
    pub checkpoint_step: u64,
    /// The ranks' attempt, as the checkpoints' `owner.json` names it.
    pub attempt_id: Option<String>,
    /// Ranks that are slower than the others, in words.
    pub slow: Vec<String>,
    /// Ranks that were slower at some time of this launch, in the first words on each.
    #[serde(default)]
    pub slow_seen: Vec<String>,
    /// The newest incident, in words.
    pub last_incident: Option<String>,
    /// What the launcher ended with.
    pub exit_code: Option<u8>,
    /// All ranks.
    pub ranks: Vec<RankRecord>,
}

/// A launcher writes every second; one that has not for so long, in seconds, is gone.
pub const STALE_SECONDS: f64 = 10.0;

impl State {
    /// That of a launch of this process which has just begun, at `now`.
    #[must_use]
    pub fn of_launch(launch_id: String, now: Timestamp) -> Self {
        let pid = std::process::id();
        Self {
            launch_id,
            launcher_host: host::host_name(),
            launcher_pid: pid,
            launcher_start: host::start_ticks(pid),
            started: now,
            updated: now,
            condition: Condition::Starting,
            next_start: None,
            attempt: 0,
            restarts: 0,
            world: 0,
            hosts: Vec::new(),
            step: 0,
            last_step: 0,
            images_per_second: None,
            seconds_left: None,
            checkpoint_step: 0,
            attempt_id: None,
            slow: Vec::new(),
            slow_seen: Vec::new(),
            last_incident: None,
            exit_code: None,
            ranks: Vec::new(),
        }
    }

    /// Whether the launcher that wrote this still has the run, as far as one can tell from `here`, a host's name. Of a
    /// process on this very host `start_of` says when it was started, if it lives; of another host the age of what it
    /// wrote has to do.
    #[must_use]
    pub fn is_held(&self, now: Timestamp, here: &str, start_of: impl Fn(u32) -> Option<u64>) -> bool {
        if self.condition == Condition::Ended {
            return false;
        }
        // Clocks of two hosts may differ in either direction.
        let is_fresh = (now - self.updated).total(jiff::Unit::Second).is_ok_and(|age| age.abs() < STALE_SECONDS);
        if self.launcher_host != here {
            return is_fresh;
        }
        match (start_of(self.launcher_pid), self.launcher_start) {
            (None, _) => false,
            (Some(now), Some(then)) => now == then,
            (Some(_), None) => is_fresh,
        }
    }
}

/// Measures the rate of steps over a window.
#[derive(Debug, Default)]
pub struct Rate {
    seen: VecDeque<(f64, u64)>,
}

/// Seconds over which a rate is taken.
const WINDOW: f64 = 30.0;

impl Rate {
    /// `step` steps are done at `now`, in seconds. A step that goes back begins anew.
    pub fn see(&mut self, now: f64, step: u64) {
        if self.seen.back().is_some_and(|&(_, last)| step < last) {
            self.seen.clear();
        }
        if self.seen.back().is_none_or(|&(_, last)| step > last) {
            self.seen.push_back((now, step));
        }
        while self.seen.len() > 2 && self.seen.front().is_some_and(|&(at, _)| now - at > WINDOW) {
            self.seen.pop_front();
        }
    }

    /// Steps a second at `now`; none before two different steps were seen.
    #[must_use]
    pub fn per_second(&self, now: f64) -> Option<f64> {
        let (&(first, from), &(last, to)) = (self.seen.front()?, self.seen.back()?);
        if to == from {
            return None;
        }
        // A run that has stood still since its last step gets slower with every second.
        let pace = (last - first) / (to - from) as f64;
        let waits = now - last;
        let span = if waits > 2.0 * pace { now - first } else { last - first };
        (span > 0.0).then(|| (to - from) as f64 / span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_held_while_its_launcher_lives() {
        let second = |second| Timestamp::from_second(second).expect("a time");
        let state = State {
            launcher_host: "n0".into(),
            launcher_pid: 7,
            launcher_start: Some(500),
            condition: Condition::Training,
            ..State::of_launch("l".into(), second(1000))
        };
        let held = |state: &State, now, here, start| state.is_held(second(now), here, |pid| start_of(pid, start));
        fn start_of(pid: u32, start: Option<u64>) -> Option<u64> {
            (pid == 7).then_some(start)?
        }
        // Here: the process itself says.
        assert!(held(&state, 1003, "n0", Some(500)) && held(&state, 2000, "n0", Some(500)));
        assert!(!held(&state, 1003, "n0", None) && !held(&state, 1003, "n0", Some(501)));
        // Elsewhere: what it wrote last, whoever's clock is ahead.
        assert!(held(&state, 1009, "n1", None) && held(&state, 995, "n1", None));
        assert!(!held(&state, 1011, "n1", Some(500)));
        let old = State { launcher_start: None, ..state.clone() };
        assert!(held(&old, 1009, "n0", Some(9)) && !held(&old, 1011, "n0", Some(9)) && !held(&old, 1001, "n0", None));
        let ended = State { condition: Condition::Ended, ..state };
        assert!(!held(&ended, 1001, "n0", Some(500)) && !held(&ended, 1001, "n1", None));
    }

    #[test]
    fn the_rate_follows_the_steps() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(0.0), None);
        for step in 0..100 {
            rate.see(step as f64 * 0.5, step);
        }
        assert_eq!(rate.per_second(49.5), Some(2.0));
        assert!(rate.per_second(200.0).expect("it was measured") < 0.5, "it stands still");
        rate.see(200.0, 10);
        assert_eq!(rate.per_second(200.0), None, "another attempt began at an earlier step");
    }
}
