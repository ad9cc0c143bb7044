//! Records what rank 0 spends its time on, for the ledger of the run's time.

use std::path::Path;
use std::time::{Duration, Instant};

use admiral_comm::StepSeconds;
use admiral_goodput::{Event, EventKind, IntervalSeconds, Journal, Stage, seconds_since_epoch};

use super::saving::Polled;

/// Steps are recorded in intervals of at least this length, which bounds the file.
const INTERVAL: Duration = Duration::from_secs(10);

/// How long the end of a run waits for the disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// The events of this attempt. Only rank 0 records any.
#[derive(Debug)]
pub(super) struct Accounting {
    is_root: bool,
    /// The events from before the run's folder was made.
    early: Vec<Event>,
    journal: Option<Journal>,
    seconds: IntervalSeconds,
    /// How long this rank waited in the last poll. It is counted in the next step.
    last_poll: Duration,
    since: Instant,
    has_stepped: bool,
    saved: Option<u64>,
    has_warned: bool,
}

impl Accounting {
    /// Begins with the start of the attempt.
    pub(super) fn begin(rank: usize, world: usize) -> Self {
        let mut accounting = Self {
            is_root: rank == 0,
            early: Vec::new(),
            journal: None,
            seconds: IntervalSeconds::default(),
            last_poll: Duration::ZERO,
            since: Instant::now(),
            has_stepped: false,
            saved: None,
            has_warned: false,
        };
        accounting.add(EventKind::RankBegins { world: world as u64, gpus: 0 });
        accounting
    }

    /// Sets whether each rank has a GPU.
    pub(super) fn has_gpus(&mut self, has_gpus: bool) {
        for event in &mut self.early {
            if let EventKind::RankBegins { world, gpus } = &mut event.kind {
                *gpus = if has_gpus { *world } else { 0 };
            }
        }
    }

    /// Records that a stage of the start is done. `step` is the step that the run continues from, if the stage tells it.
    pub(super) fn stage(&mut self, stage: Stage, step: Option<u64>) {
        self.add(EventKind::StageEnds { stage, step });
    }

    /// Starts to write to the run's folder.
    pub(super) fn open(&mut self, folder: &Path, attempt_id: &str) {
        if !self.is_root {
            return;
        }
        match Journal::start(folder, &format!("attempt-{attempt_id}")) {
            Ok(journal) => {
                self.early.drain(..).for_each(|event| journal.append(event));
                self.journal = Some(journal);
            }
            Err(error) => tracing::warn!("the run's time is not recorded: {error}"),
        }
    }

    /// Returns the seconds that this rank waited for others: in a step, and in the poll before it.
    pub(super) fn wait_of(&self, step: StepSeconds) -> f64 {
        step.wait + self.last_poll.as_secs_f64()
    }

    /// Adds a step of this rank, of which the ranks have told each other their [waits](Self::wait_of). The last rank to
    /// begin an exchange waits for nobody, so the least wait is the time of the exchanges themselves.
    pub(super) fn add_step(&mut self, step: StepSeconds, polled: Polled) {
        let waited = self.wait_of(step);
        let exchange = polled.least_wait.as_secs_f64().min(waited);
        self.seconds.data += step.data;
        self.seconds.exchange += exchange;
        self.seconds.straggler += waited - exchange;
        self.last_poll = polled.waited;
    }

    /// Adds a time that training waited for a save.
    pub(super) fn add_checkpoint(&mut self, time: Duration) {
        self.seconds.checkpoint += time.as_secs_f64();
    }

    /// Adds a time that training waited for sample grids.
    pub(super) fn add_sampling(&mut self, time: Duration) {
        self.seconds.sampling += time.as_secs_f64();
    }

    /// Adds a time that training waited for validation and evaluation.
    pub(super) fn add_evaluation(&mut self, time: Duration) {
        self.seconds.evaluation += time.as_secs_f64();
    }

    /// Records that `step` is done, if it is the first one of the attempt or enough time has passed. `saved` is the step of
    /// the newest checkpoint.
    pub(super) fn steps_done(&mut self, step: u64, saved: Option<u64>) {
        if !self.has_stepped {
            self.has_stepped = true;
            self.stage(Stage::FirstStep, None);
            (self.seconds, self.last_poll, self.since) = (IntervalSeconds::default(), Duration::ZERO, Instant::now());
        } else if self.since.elapsed() >= INTERVAL {
            self.record(step);
        }
        self.add_saved(saved);
    }

    /// Records the last steps, the last checkpoint and the end of the attempt. Waits a moment for the disk.
    pub(super) fn end(mut self, step: u64, saved: Option<u64>, is_preempted: bool) {
        self.record(step);
        self.add_saved(saved);
        self.add(EventKind::RankEnds { is_preempted });
        let problem = self.journal.and_then(|journal| journal.finish(PATIENCE));
        problem.filter(|_| !self.has_warned).into_iter().for_each(|problem| tracing::warn!("{problem}"));
    }

    fn add_saved(&mut self, saved: Option<u64>) {
        if saved != self.saved {
            self.saved = saved;
            saved.into_iter().for_each(|step| self.add(EventKind::Saved { step }));
        }
    }

    fn record(&mut self, step: u64) {
        let seconds = std::mem::take(&mut self.seconds);
        self.since = Instant::now();
        self.add(EventKind::StepsEnd { step, seconds });
    }

    fn add(&mut self, kind: EventKind) {
        if !self.is_root {
            return;
        }
        let Some(journal) = &self.journal else {
            self.early.push(Event { time: seconds_since_epoch(), kind });
            return;
        };
        journal.now(kind);
        if let Some(problem) = journal.problem().filter(|_| !self.has_warned) {
            self.has_warned = true;
            tracing::warn!("{problem}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn polled(least_wait: u64, waited: u64) -> Polled {
        let [least_wait, waited] = [least_wait, waited].map(Duration::from_millis);
        Polled { is_asked: false, is_free: true, is_stuck: false, least_wait, waited }
    }

    #[test]
    fn what_exceeds_the_least_wait_of_the_ranks_is_waiting_for_slower_ones() {
        let mut accounting = Accounting::begin(0, 2);
        let step = |wait| StepSeconds { step: 2.0, data: 0.25, wait };
        accounting.add_step(step(1.0), polled(500, 250));
        // The poll of the step before is a part of the next one, of which this rank began the exchanges last.
        assert_eq!(accounting.wait_of(step(0.5)), 0.75);
        accounting.add_step(step(0.5), polled(750, 0));
        let seconds = IntervalSeconds { data: 0.5, straggler: 0.5, exchange: 1.25, ..Default::default() };
        assert_eq!(accounting.seconds, seconds);
    }
}
