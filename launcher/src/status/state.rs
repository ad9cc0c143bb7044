//! `launch/state.json`: the state of a run, for `admiral-launch status` and for programs.

use std::collections::VecDeque;

use admiral_contract::host::{self, Life};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::incident::RankRecord;
use crate::job::JobKind;

/// The activity of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The hosts are being examined.
    Preflight,
    /// The ranks are being started, or get ready.
    Starting,
    /// The ranks train.
    Training,
    /// The ranks draw images.
    Sampling,
    /// The run was asked to stop, and its ranks keep their work.
    Stopping,
    /// Something failed: the group is shutting down, or the next attempt waits.
    Recovering,
    /// The launch is over.
    Ended,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Preflight => "examining the hosts",
            Self::Starting => "starting",
            Self::Training => "training",
            Self::Sampling => "drawing images",
            Self::Stopping => "stopping",
            Self::Recovering => "recovering",
            Self::Ended => "ended",
        })
    }
}

/// The state of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The launch.
    pub launch_id: String,
    /// What the ranks do.
    #[serde(default)]
    pub kind: JobKind,
    /// The host of its launcher.
    pub launcher_host: String,
    /// The process number of the launcher.
    pub launcher_pid: u32,
    /// The start of that process, in clock ticks since boot.
    #[serde(default)]
    pub launcher_start: Option<u64>,
    /// The machine and process ID namespace of the launcher, where its process ID has a meaning.
    #[serde(default)]
    pub launcher_machine: String,
    /// The time at which the launch began.
    pub started: Timestamp,
    /// The time at which this was written. A live launcher writes it every second.
    pub updated: Timestamp,
    /// The activity.
    pub condition: Condition,
    /// The time of the next attempt's start, while the launcher waits for it.
    #[serde(default)]
    pub next_start: Option<Timestamp>,
    /// The current attempt, from 0.
    pub attempt: u64,
    /// The number of restarts of this launch.
    pub restarts: u64,
    /// The number of ranks.
    pub world: usize,
    /// The hosts in use.
    pub hosts: Vec<String>,
    /// The number of completed steps, or of finished images.
    pub step: u64,
    /// The last step of the run, or the number of its images; 0 until it is known.
    pub last_step: u64,
    /// Images per second over all ranks in the last half minute, or ten minutes of a sampling job, if known.
    pub images_per_second: Option<f64>,
    /// Seconds until the last step or image, at this rate.
    pub seconds_left: Option<f64>,
    /// The step of the newest checkpoint that this run has published or begun from; 0 for a sampling job.
    pub checkpoint_step: u64,
    /// The number of steps between checkpoints, if there are any.
    #[serde(default)]
    pub save_interval: Option<u64>,
    /// The place of the checkpoints or images: a folder or a URL.
    #[serde(default)]
    pub store: Option<String>,
    /// The ID of the ranks' attempt, as in the checkpoints' `owner.json`.
    pub attempt_id: Option<String>,
    /// Sentences about slow ranks.
    pub slow: Vec<String>,
    /// The first sentence about each rank that was slow at any time of this launch.
    #[serde(default)]
    pub slow_seen: Vec<String>,
    /// The newest incident, in a sentence.
    pub last_incident: Option<String>,
    /// The launcher's exit code.
    pub exit_code: Option<u8>,
    /// All ranks.
    pub ranks: Vec<RankRecord>,
}

/// A launcher writes every second. After this many seconds without a write, it is gone.
pub const STALE_SECONDS: f64 = 10.0;

impl State {
    /// Escapes control characters, line breaks among them, in all names and sentences. The file may have been written by
    /// somebody else, who could otherwise add lines to messages.
    #[must_use]
    pub(super) fn with_names_in_one_line(mut self) -> Self {
        let escape = |text: &mut String| {
            if text.contains(char::is_control) {
                let escaped = |letter: char| {
                    if letter.is_control() { letter.escape_default().to_string() } else { letter.into() }
                };
                *text = text.chars().map(escaped).collect();
            }
        };
        let optional = [&mut self.store, &mut self.attempt_id, &mut self.last_incident].into_iter().flatten();
        let lists = self.hosts.iter_mut().chain(&mut self.slow).chain(&mut self.slow_seen);
        let of_ranks = self.ranks.iter_mut().map(|rank| &mut rank.host);
        let names = [&mut self.launch_id, &mut self.launcher_host, &mut self.launcher_machine];
        names.into_iter().chain(optional).chain(lists).chain(of_ranks).for_each(escape);
        self
    }

    /// Returns the state of a launch that this process begins at `now`.
    #[must_use]
    pub fn of_launch(launch_id: String, now: Timestamp) -> Self {
        let pid = std::process::id();
        Self {
            launch_id,
            kind: JobKind::Train,
            launcher_host: host::host_name(),
            launcher_pid: pid,
            launcher_start: host::start_ticks(pid),
            launcher_machine: host::process_identity(),
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
            save_interval: None,
            store: None,
            attempt_id: None,
            slow: Vec::new(),
            slow_seen: Vec::new(),
            last_incident: None,
            exit_code: None,
            ranks: Vec::new(),
        }
    }

    /// Returns the step of the next checkpoint, and the seconds until then if the rate is known. `None` if none comes.
    #[must_use]
    pub fn next_checkpoint(&self) -> Option<(u64, Option<f64>)> {
        let interval = self.save_interval.filter(|&steps| steps > 0)?;
        if self.condition == Condition::Ended || self.kind != JobKind::Train {
            return None;
        }
        let next = (self.step / interval).saturating_add(1).saturating_mul(interval);
        // The last step is saved, too.
        let next = if self.last_step > 0 { next.min(self.last_step) } else { next };
        let left = self.last_step.saturating_sub(self.step);
        let pace = self.seconds_left.filter(|_| left > 0).map(|seconds| seconds / left as f64);
        (next > self.step).then(|| (next, pace.map(|pace| pace * (next - self.step) as f64)))
    }

    /// Returns whether the launcher that wrote this is alive. It is dead if it said that it ended.
    #[must_use]
    pub fn life(&self) -> Life {
        if self.condition == Condition::Ended {
            return Life::Dead;
        }
        host::life_of(&self.launcher_machine, self.launcher_pid, self.launcher_start)
    }
}

/// Measures the rate of steps or images over a window.
#[derive(Debug)]
pub struct Rate {
    seen: VecDeque<(f64, u64)>,
    window: f64,
}

/// The length of the window in seconds. All ranks finish their batches of images at about the same time, and a batch
/// takes minutes.
const WINDOW: f64 = 30.0;
const WINDOW_OF_IMAGES: f64 = 600.0;

impl Rate {
    /// Creates the measurement for a kind of job.
    #[must_use]
    pub fn new(kind: JobKind) -> Self {
        let window = match kind {
            JobKind::Train => WINDOW,
            JobKind::Sample => WINDOW_OF_IMAGES,
        };
        Self { seen: VecDeque::new(), window }
    }

    /// Records that `step` steps are done at `now`, in seconds. If the step goes back, the measurement starts anew.
    pub fn record(&mut self, now: f64, step: u64) {
        if self.seen.back().is_some_and(|&(_, last)| step < last) {
            self.seen.clear();
        }
        if self.seen.back().is_none_or(|&(_, last)| step > last) {
            self.seen.push_back((now, step));
        }
        while self.seen.len() > 2 && self.seen.front().is_some_and(|&(at, _)| now - at > self.window) {
            self.seen.pop_front();
        }
    }

    /// Returns the steps per second at `now`; `None` before two different steps were seen.
    #[must_use]
    pub fn per_second(&self, now: f64) -> Option<f64> {
        let (&(first, from), &(last, to)) = (self.seen.front()?, self.seen.back()?);
        if to == from {
            return None;
        }
        // The rate of a run that stands still falls with every second.
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
    fn a_launcher_lives_until_the_system_or_its_file_says_that_it_ended() {
        let own = State::of_launch("l".into(), Timestamp::UNIX_EPOCH);
        assert_eq!(own.life(), Life::Alive, "however old the file is");
        let start = own.launcher_start.map(|start| start + 1);
        assert_eq!(State { launcher_start: start, ..own.clone() }.life(), Life::Dead);
        assert_eq!(State { launcher_machine: "elsewhere".into(), ..own.clone() }.life(), Life::Unknown);
        assert_eq!(State { condition: Condition::Ended, ..own }.life(), Life::Dead);
    }

    #[test]
    fn the_next_checkpoint_is_at_a_multiple_of_the_interval_or_at_the_end() {
        let state = State {
            condition: Condition::Training,
            step: 700,
            last_step: 2000,
            save_interval: Some(300),
            seconds_left: Some(2600.0),
            ..State::of_launch("l".into(), Timestamp::UNIX_EPOCH)
        };
        assert_eq!(state.next_checkpoint(), Some((900, Some(400.0))));
        assert_eq!(State { step: 900, seconds_left: None, ..state.clone() }.next_checkpoint(), Some((1200, None)));
        assert_eq!(State { step: 1950, ..state.clone() }.next_checkpoint().map(|next| next.0), Some(2000));
        for none in [
            State { step: 2000, ..state.clone() },
            State { save_interval: None, ..state.clone() },
            State { save_interval: Some(0), ..state.clone() },
            State { condition: Condition::Ended, ..state.clone() },
        ] {
            assert_eq!(none.next_checkpoint(), None);
        }
        let huge = State { step: u64::MAX, last_step: 0, save_interval: Some(7), ..state };
        assert_eq!(huge.next_checkpoint(), None);
    }

    #[test]
    fn the_rate_follows_the_steps() {
        let mut rate = Rate::new(JobKind::Train);
        assert_eq!(rate.per_second(0.0), None);
        for step in 0..100 {
            rate.record(step as f64 * 0.5, step);
        }
        assert_eq!(rate.per_second(49.5), Some(2.0));
        assert!(rate.per_second(200.0).expect("it was measured") < 0.5, "it stands still");
        rate.record(200.0, 10);
        assert_eq!(rate.per_second(200.0), None, "another attempt began at an earlier step");
    }

    #[test]
    fn images_that_come_in_batches_have_a_steady_rate() {
        let mut rate = Rate::new(JobKind::Sample);
        // Four ranks finish 16 images each within four seconds, every two minutes.
        for second in 0..=1204_u64 {
            let (batches, within) = (second / 120, (second % 120).min(3) + 1);
            rate.record(second as f64, if batches == 0 { 0 } else { (batches - 1) * 64 + within * 16 });
        }
        let measured = rate.per_second(1204.0).expect("it was measured");
        assert!((0.45..0.65).contains(&measured), "{measured}");
    }
}
