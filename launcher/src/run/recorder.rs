//! Keeps `state.json` up to date, and adds the costs to an incident's file when the run continues.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use admiral_contract::ExitCode;
use admiral_goodput::{EventKind, Journal};
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};

use super::reporter::Reporter;
use crate::console::Console;
use crate::decide::SlowStreaks;
use crate::file_writer::FileWriter;
use crate::goodput::epoch_seconds;
use crate::hosts::Host;
use crate::incident::Failure;
use crate::job::JobKind;
use crate::layout::Layout;
use crate::metrics::LaunchMetrics;
use crate::notify::Notifier;
use crate::paths::state_of;
use crate::status::{Condition, Rate, State};
use crate::supervise::{Attempt, Roster, Watcher};

/// A rank that stays slow is reported again after this long.
const SLOW_REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// At its end, the launcher waits this long for its last events to be written.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// An incident whose costs are not known yet.
#[derive(Debug)]
struct Pending {
    failure: Failure,
    files: Vec<PathBuf>,
    failed_at: f64,
}

/// Writes the state of a launch to its files.
#[derive(Debug)]
pub(super) struct Recorder {
    run: PathBuf,
    path: PathBuf,
    console: Console,
    writer: FileWriter,
    state: State,
    rate: Rate,
    /// Several, if another incident came before a new step was done.
    pending: Vec<Pending>,
    slow_reported_at: Option<Instant>,
    ranks_seen_slow: BTreeSet<usize>,
    has_problem: bool,
    has_begun: bool,
    slow_streaks: SlowStreaks,
    /// The number of images that the current attempt of a sampling job found.
    found: Option<u64>,
    /// The events for the ledger of the run's time; none for a sampling job.
    journal: Option<Journal>,
    metrics: LaunchMetrics,
    is_examining: bool,
    is_attempting: bool,
    pub(super) reporter: Reporter,
}

impl Recorder {
    pub(super) fn new(
        run_folder: &Path,
        launch_id: String,
        kind: JobKind,
        console: Console,
        writer: FileWriter,
    ) -> Self {
        let journal = match kind {
            JobKind::Train => Journal::start(run_folder, &format!("launch-{launch_id}"))
                .map_err(|error| console.warn(&format!("the run's time is not recorded: {error}")))
                .ok(),
            JobKind::Sample => None,
        };
        let path = state_of(run_folder);
        let reporter = Reporter::new(run_folder, console.clone(), None, None);
        let state = State { kind, ..State::of_launch(launch_id, Timestamp::now()) };
        Self {
            run: run_folder.to_owned(),
            path,
            console,
            writer,
            state,
            rate: Rate::new(kind),
            pending: Vec::new(),
            slow_reported_at: None,
            ranks_seen_slow: BTreeSet::new(),
            has_problem: false,
            has_begun: false,
            slow_streaks: SlowStreaks::default(),
            found: None,
            journal,
            metrics: LaunchMetrics::new(run_folder),
            is_examining: false,
            is_attempting: false,
            reporter,
        }
    }

    /// Returns the metrics that follow the state.
    pub(super) fn metrics(&self) -> &LaunchMetrics {
        &self.metrics
    }

    /// Also records how often checkpoints are saved, and where to.
    pub(super) fn with_places(mut self, save_interval: Option<u64>, store: String) -> Self {
        (self.state.save_interval, self.state.store) = (save_interval, Some(store));
        self
    }

    /// Sets who is told of what happens: `dead_man` is the time without progress that is silence.
    pub(super) fn tell(&mut self, notifier: Option<Notifier>, dead_man: Option<Duration>) {
        self.reporter = Reporter::new(&self.run, self.console.clone(), notifier, dead_man);
    }

    fn append(&self, event: EventKind) {
        if let Some(journal) = &self.journal {
            journal.now(event);
        }
    }

    /// Takes over the progress of an earlier launch until ranks report theirs.
    pub(super) fn continue_from(&mut self, earlier: &State) {
        self.state.step = earlier.step;
        self.state.last_step = earlier.last_step;
        self.state.checkpoint_step = earlier.checkpoint_step;
    }

    /// Records that the hosts are being examined. The places of the ranks are not known yet.
    pub(super) fn examine(&mut self, hosts: &[Host], world: usize) {
        self.append(EventKind::LaunchBegins);
        self.append(EventKind::PreflightBegins);
        self.is_examining = true;
        self.state.condition = Condition::Preflight;
        self.state.world = world;
        self.state.hosts = hosts.iter().map(|host| host.name.clone()).collect();
        self.write();
    }

    /// Records that the next attempt starts after `delay`.
    pub(super) fn wait_for_start(&mut self, delay: Duration) {
        self.state.next_start = Timestamp::now().checked_add(delay).ok();
        self.write();
    }

    /// Updates the file while the launcher waits for something, so that it does not look dead.
    pub(super) async fn while_waiting<T>(&mut self, waiting: impl Future<Output = T>) -> T {
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(waiting);
        loop {
            tokio::select! {
                done = &mut waiting => return done,
                _ = second.tick() => {
                    self.reporter.tick(&self.state);
                    self.write();
                }
            }
        }
    }

    pub(super) fn begin(&mut self, attempt: u64, layout: &Layout) {
        if !self.has_begun && !self.is_examining {
            self.append(EventKind::LaunchBegins);
        }
        if std::mem::take(&mut self.is_examining) {
            self.append(EventKind::PreflightEnds);
        }
        self.append(EventKind::AttemptBegins);
        self.is_attempting = true;
        self.state.restarts += u64::from(self.has_begun);
        if !self.has_begun {
            // The run's checkpoints may have been deleted since.
            (self.state.step, self.state.last_step, self.state.checkpoint_step) = (0, 0, 0);
        }
        self.has_begun = true;
        self.state.next_start = None;
        self.state.attempt = attempt;
        self.state.world = layout.world();
        self.state.hosts = layout.hosts.iter().map(|(host, _)| host.clone()).collect();
        self.state.condition = Condition::Starting;
        (self.rate, self.found) = (Rate::new(self.state.kind), None);
        self.write();
    }

    /// Records the ranks' last reports at the end of an attempt. `failed` is the time at which its failure was found, if it
    /// failed.
    pub(super) fn note(&mut self, roster: &Roster, failed: Option<Timestamp>, now: f64) {
        if std::mem::take(&mut self.is_attempting) {
            if let (Some(time), Some(journal)) = (failed, &self.journal) {
                let ago = epoch_seconds(Timestamp::now()) - epoch_seconds(time);
                journal.before(ago.max(0.0), EventKind::FailureFound);
            }
            self.append(EventKind::AttemptEnds { has_failed: failed.is_some() });
        }
        self.note_progress(roster, now);
        let state = &mut self.state;
        state.checkpoint_step = state.checkpoint_step.max(roster.checkpoint_step());
        (state.images_per_second, state.seconds_left) = (None, None);
    }

    /// Records the steps or images that are done, and the costs of incidents once a sampling job has drawn more images.
    fn note_progress(&mut self, roster: &Roster, now: f64) {
        let kind = self.state.kind;
        self.state.last_step = self.state.last_step.max(roster.goal(kind));
        let Some(done) = roster.done(kind) else { return };
        self.state.step = done;
        let found = *self.found.get_or_insert(done);
        if kind == JobKind::Sample && done > found {
            self.continues(found, now);
        }
        // The recovery from an incident is told with its costs.
        if self.pending.is_empty() {
            self.reporter.progress(&self.state, done);
        }
    }

    /// Records an incident.
    pub(super) fn failed(&mut self, failure: Failure, files: Vec<PathBuf>, failed_at: f64) {
        self.state.condition = Condition::Recovering;
        self.state.last_incident = Some(failure.verdict.clone());
        self.reporter.incident(&self.state, &failure);
        self.pending.push(Pending { failure, files, failed_at });
        self.write();
    }

    /// Records the end of the launch. Waits a moment for the disk.
    pub(super) fn end(&mut self, code: u8) {
        self.append(EventKind::LaunchEnds { is_preempted: code == ExitCode::Preempted as u8 });
        if let Some(journal) = self.journal.take() {
            journal.finish(LAST_EVENTS).into_iter().for_each(|problem| self.console.warn(&problem));
        }
        self.state.condition = Condition::Ended;
        self.state.next_start = None;
        self.state.exit_code = Some(code);
        self.reporter.end(&self.state, code);
        self.write();
    }

    /// Has the state written. A launch continues if that fails or takes long.
    fn write(&mut self) {
        self.state.updated = Timestamp::now();
        self.metrics.state(&self.state);
        let problem = match self.writer.put_json(&self.path, &self.state) {
            Ok(()) => self.writer.problem(),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = &problem
            && !self.has_problem
        {
            self.console.warn(problem);
        }
        self.has_problem = problem.is_some();
    }
}

impl Watcher for Recorder {
    fn observe(&mut self, attempt: &Attempt, now: f64) {
        let roster = &attempt.roster;
        self.note_progress(roster, now);
        let state = &mut self.state;
        let kind = state.kind;
        if roster.done(kind).is_some() {
            self.rate.record(now, state.step);
        }
        if let Some(furthest) = attempt.furthest() {
            let rate = self.rate.per_second(now);
            let images = if kind == JobKind::Train { furthest.global_batch as f64 } else { 1.0 };
            state.images_per_second = rate.map(|rate| rate * images);
            let left = roster.goal(kind).saturating_sub(state.step) as f64;
            state.seconds_left = rate.map(|rate| left / rate);
            if !furthest.attempt_id.is_empty() {
                state.attempt_id = Some(furthest.attempt_id.clone());
            }
            state.condition = match kind {
                _ if attempt.is_ending => Condition::Recovering,
                _ if attempt.is_stopping => Condition::Stopping,
                _ if !roster.readings().any(|reading| kind.has_begun(reading)) => Condition::Starting,
                JobKind::Train => Condition::Training,
                JobKind::Sample => Condition::Sampling,
            };
        }
        state.checkpoint_step = state.checkpoint_step.max(roster.checkpoint_step());
        state.ranks = roster.records();
        if !attempt.is_stopping {
            self.reporter.tick(state);
        }
        let slow = self.slow_streaks.look(&attempt.slow);
        state.slow = slow.iter().map(|slow| slow.sentence.clone()).collect();
        for slow in slow {
            if self.ranks_seen_slow.insert(slow.rank) {
                state.slow_seen.push(slow.sentence.clone());
            }
        }
        if !state.slow.is_empty() && self.slow_reported_at.is_none_or(|at| at.elapsed() > SLOW_REPORT_INTERVAL) {
            self.slow_reported_at = Some(Instant::now());
            for slow in &state.slow {
                self.console.info(slow);
            }
        }
        self.write();
    }

    fn first_step(&mut self, attempt: &Attempt, now: f64) {
        if self.state.kind == JobKind::Train {
            self.continues(attempt.roster.checkpoint_step(), now);
        }
    }
}

impl Recorder {
    /// Completes the incidents, and tells their costs, when the job continues from this step or number of images.
    fn continues(&mut self, began: u64, now: f64) {
        let Some((seconds, lost)) = self.complete(began, now) else { return };
        self.reporter.recovers(&self.state, seconds, lost);
        let kind = self.state.kind;
        let amount = format!("{} {}", kind.amount(lost), if lost == 1 { "is" } else { "are" });
        self.console.info(&match kind {
            JobKind::Train => format!("trains again after {seconds:.1} s, from step {began}; {amount} done again"),
            JobKind::Sample => format!("draws again after {seconds:.1} s; {amount} drawn again"),
        });
    }

    /// Writes the costs of the incidents since the last new step, when the run continues from step `began`. Returns the
    /// seconds and steps of the first incident, which are the costs of all of them together.
    fn complete(&mut self, began: u64, now: f64) -> Option<(f64, u64)> {
        let pending = std::mem::take(&mut self.pending);
        let total = pending.first().map(|first| {
            let furthest = pending.iter().map(|one| one.failure.step).max().unwrap_or(0);
            (now - first.failed_at, furthest.saturating_sub(began))
        });
        let last = pending.len().saturating_sub(1);
        for (place, Pending { mut failure, files, failed_at }) in pending.into_iter().enumerate() {
            failure.steps_lost = Some(failure.step.saturating_sub(began));
            failure.seconds_lost = Some(now - failed_at + failure.standstill_seconds);
            // The last file is the run's own `failure.json`, which belongs to the newest incident.
            let own = if place == last { files.len() } else { files.len().min(1) };
            for path in &files[..own] {
                if let Err(error) = self.writer.put_json(path, &failure) {
                    self.console.warn(&error.to_string());
                }
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use admiral_contract::{Phase, Reading};

    use super::*;
    use crate::environment::Environment;
    use crate::incident::GroupRecord;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn failure(incident: u64, step: u64) -> Failure {
        Failure {
            launch_id: "l".into(),
            kind: JobKind::Train,
            incident,
            attempt: incident,
            detected: Timestamp::UNIX_EPOCH,
            verdict: format!("the {incident}th"),
            rank: None,
            host: None,
            gpu: None,
            exit_code: None,
            signal: None,
            last_lines: vec![],
            stack: None,
            ranks: vec![],
            step,
            group: GroupRecord::default(),
            action: String::new(),
            standstill_seconds: 0.0,
            harmed: None,
            steps_lost: None,
            seconds_lost: None,
        }
    }

    fn recorder(folder: &std::path::Path, kind: JobKind) -> Recorder {
        let console = Console::new(&Environment::new([]));
        Recorder::new(folder, "l".into(), kind, console, FileWriter::start().expect("a thread"))
    }

    fn read<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> T {
        serde_json::from_slice(&std::fs::read(path).expect("it is written")).expect("it is whole")
    }

    #[test]
    fn the_costs_of_two_incidents_are_written_for_both() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut recorder = recorder(folder.path(), JobKind::Train);
        let (newest, own) =
            (folder.path().join("failure.json"), |number: u64| folder.path().join(format!("{number}.json")));
        for (number, step, at) in [(1, 45, 100.0), (2, 40, 103.0)] {
            recorder.failed(failure(number, step), vec![own(number), newest.clone()], at);
        }
        assert_eq!(recorder.complete(40, 110.0), Some((10.0, 5)));
        recorder.writer.finish(PATIENCE).expect("it can be written");
        let costs = |failure: Failure| (failure.incident, failure.steps_lost, failure.seconds_lost);
        assert_eq!(costs(read(&own(1))), (1, Some(5), Some(10.0)));
        assert_eq!(costs(read(&own(2))), (2, Some(0), Some(7.0)));
        assert_eq!(costs(read(&newest)), (2, Some(0), Some(7.0)));
        assert_eq!(recorder.complete(40, 111.0), None, "once");
    }

    #[test]
    fn a_sampling_job_continues_when_it_has_drawn_more_images_than_it_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut recorder = recorder(folder.path(), JobKind::Sample);
        let path = folder.path().join("failure.json");
        recorder.failed(failure(1, 96), vec![path.clone()], 100.0);
        let mut roster = Roster::new((0..2).map(|rank| ("n0".to_owned(), rank)));
        for (now, images, lost) in [(105.0, [32, 32], None), (106.0, [32, 48], Some(32)), (107.0, [48, 48], Some(32))] {
            for (entry, step) in roster.entries.iter_mut().zip(images) {
                entry.reading = Some(Reading { step, last_step: 100, phase: Phase::Sample, ..Reading::default() });
            }
            recorder.note_progress(&roster, now);
            assert_eq!((recorder.state.step, recorder.state.last_step), (images.iter().sum(), 200));
            recorder.writer.finish(PATIENCE).expect("it can be written");
            let written = std::fs::read(&path).ok().map(|_| read::<Failure>(&path));
            assert_eq!(written.as_ref().and_then(|failure| failure.steps_lost), lost);
            assert_eq!(written.and_then(|failure| failure.seconds_lost), lost.map(|_| 6.0));
        }
    }

    #[tokio::test]
    async fn a_waiting_launcher_updates_its_state() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut recorder = recorder(folder.path(), JobKind::Train);
        recorder.wait_for_start(Duration::from_secs(600));
        recorder.writer.finish(PATIENCE).expect("it can be written");
        let first: State = read(&state_of(folder.path()));
        recorder.while_waiting(tokio::time::sleep(Duration::from_millis(500))).await;
        recorder.writer.finish(PATIENCE).expect("it can be written");
        let last: State = read(&state_of(folder.path()));
        assert!(last.updated > first.updated && last.next_start == first.next_start && last.next_start.is_some());
        recorder.end(75);
        recorder.writer.finish(PATIENCE).expect("it can be written");
        assert_eq!(read::<State>(&state_of(folder.path())).next_start, None);
    }
}
