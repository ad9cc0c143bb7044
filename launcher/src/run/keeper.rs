//! Keeps `state.json` up to date, and completes an incident's file when the run goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::console::Console;
use crate::decide::Slow;
use crate::files::write_json;
use crate::incident::Failure;
use crate::layout::Layout;
use crate::status::{Condition, Rate, State};
use crate::supervise::{Attempt, Roster, Watcher};

/// A rank that is slow is named again after this long.
const SLOW_AGAIN: Duration = Duration::from_secs(60);

/// A rank is called slow when it is at so many looks in a row, one a second.
const SLOW_LOOKS: u32 = 3;

/// An incident whose costs are not known yet.
#[derive(Debug)]
struct Pending {
    failure: Failure,
    files: Vec<PathBuf>,
    failed_at: f64,
}

/// What is written down while a run goes on.
#[derive(Debug)]
pub(super) struct Keeper {
    path: PathBuf,
    console: Console,
    state: State,
    rate: Rate,
    pending: Option<Pending>,
    told_slow: Option<Instant>,
    seen_slow: BTreeSet<usize>,
    can_write: bool,
    has_begun: bool,
    /// Looks in a row at which a rank was slow.
    slow_looks: BTreeMap<usize, u32>,
}

impl Keeper {
    pub(super) fn new(path: PathBuf, launch_id: String, console: Console) -> Self {
        let state = State::of_launch(launch_id, Timestamp::now());
        Self {
            path,
            console,
            state,
            rate: Rate::default(),
            pending: None,
            told_slow: None,
            seen_slow: BTreeSet::new(),
            can_write: true,
            has_begun: false,
            slow_looks: BTreeMap::new(),
        }
    }

    pub(super) fn begin(&mut self, attempt: u64, layout: &Layout) {
        self.state.restarts += u64::from(self.has_begun);
        self.has_begun = true;
        self.state.attempt = attempt;
        self.state.world = layout.world();
        self.state.hosts = layout.hosts.iter().map(|(host, _)| host.clone()).collect();
        self.state.condition = Condition::Starting;
        self.rate = Rate::default();
        self.write();
    }

    /// What the ranks said last.
    pub(super) fn note(&mut self, roster: &Roster) {
        let state = &mut self.state;
        if let Some(step) = roster.steps_done() {
            state.step = step;
        }
        if let Some(last_step) = roster.readings().map(|reading| reading.last_step).max() {
            state.last_step = state.last_step.max(last_step);
        }
        state.checkpoint_step = state.checkpoint_step.max(roster.checkpoint_step());
        (state.images_per_second, state.seconds_left) = (None, None);
    }

    /// An incident is over and another attempt is made, or none.
    pub(super) fn failed(&mut self, failure: Failure, files: Vec<PathBuf>, failed_at: f64) {
        self.state.condition = Condition::Recovering;
        self.state.last_incident = Some(failure.verdict.clone());
        self.pending = Some(Pending { failure, files, failed_at });
        self.write();
    }

    pub(super) fn end(&mut self, code: u8) {
        self.state.condition = Condition::Ended;
        self.state.exit_code = Some(code);
        self.write();
    }

    /// A launch that cannot say where it stands goes on all the same.
    fn write(&mut self) {
        self.state.updated = Timestamp::now();
        let written = write_json(&self.path, &self.state);
        if let Err(error) = &written
            && self.can_write
        {
            self.console.warn(&error.to_string());
        }
        self.can_write = written.is_ok();
    }
}

impl Watcher for Keeper {
    fn see(&mut self, attempt: &Attempt, now: f64) {
        let roster = &attempt.roster;
        let state = &mut self.state;
        if let Some(step) = roster.steps_done() {
            state.step = step;
            self.rate.see(now, step);
        }
        if let Some(furthest) = attempt.furthest() {
            state.last_step = state.last_step.max(furthest.last_step);
            let rate = self.rate.per_second(now);
            state.images_per_second = rate.map(|rate| rate * furthest.global_batch as f64);
            let left = furthest.last_step.saturating_sub(state.step) as f64;
            state.seconds_left = rate.map(|rate| left / rate);
            if !furthest.attempt_id.is_empty() {
                state.attempt_id = Some(furthest.attempt_id.clone());
            }
            state.condition = match furthest.step {
                _ if attempt.is_ending => Condition::Recovering,
                _ if attempt.is_stopping => Condition::Stopping,
                0 => Condition::Starting,
                _ => Condition::Training,
            };
        }
        state.checkpoint_step = state.checkpoint_step.max(roster.checkpoint_step());
        state.ranks = roster.records();
        self.slow_looks.retain(|rank, _| attempt.slow.iter().any(|slow| slow.rank == *rank));
        attempt.slow.iter().for_each(|slow| *self.slow_looks.entry(slow.rank).or_default() += 1);
        // One slow step is nothing to speak of.
        let lasts = |slow: &&Slow| self.slow_looks.get(&slow.rank).is_some_and(|&looks| looks >= SLOW_LOOKS);
        let slow: Vec<&Slow> = attempt.slow.iter().filter(lasts).collect();
        state.slow = slow.iter().map(|slow| slow.sentence.clone()).collect();
        for slow in slow {
            if self.seen_slow.insert(slow.rank) {
                state.slow_seen.push(slow.sentence.clone());
            }
        }
        if !state.slow.is_empty() && self.told_slow.is_none_or(|told| told.elapsed() > SLOW_AGAIN) {
            self.told_slow = Some(Instant::now());
            for slow in &state.slow {
                self.console.say(slow);
            }
        }
        self.write();
    }

    fn first_step(&mut self, attempt: &Attempt, now: f64) {
        let Some(Pending { mut failure, files, failed_at }) = self.pending.take() else { return };
        let began = attempt.roster.checkpoint_step();
        let lost = failure.step.saturating_sub(began);
        failure.steps_lost = Some(lost);
        failure.seconds_lost = Some(now - failed_at + failure.standstill_seconds);
        self.console.say(&format!(
            "trains again after {:.1} s, from step {began}; {lost} {} done again",
            now - failed_at,
            if lost == 1 { "step is" } else { "steps are" },
        ));
        for path in files {
            if let Err(error) = write_json(&path, &failure) {
                self.console.warn(&error.to_string());
            }
        }
    }
}
