//! The saves of a run: begins them, polls them after each step, logs their events, and retries the last one.

use std::time::{Duration, Instant};

use admiral_checkpoint::{CheckpointConfig, Error as CheckpointError, Evaluation, Report, SaveEvent, Saver, WhenBusy};
use admiral_comm::{Collective, CollectiveError, PhaseTracker};
use admiral_storage::Store;
use admiral_telemetry::{Metric, MetricKind, MetricSink, MetricSinks};

use super::error::TrainError;
use super::evaluation_records::EvaluationRecords;
use super::run_state::RunState;
use super::state::begin_save;

/// The time between two polls of a save that the run waits for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The time before a failed save that the run waits for is retried.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Saves a run's checkpoints. Every rank has one and calls its methods in the same order.
#[derive(Debug)]
pub(super) struct Saves {
    saver: Saver,
    /// On rank 0.
    evaluations: Option<EvaluationRecords>,
    when_busy: WhenBusy,
    deadline: Duration,
    metrics: MetricSinks,
    phases: PhaseTracker,
    is_root: bool,
    num_failed: u64,
    num_skipped: u64,
    /// The step of the newest published checkpoint.
    published: Option<u64>,
    /// Whether a save that the run waits for has failed.
    is_retrying: bool,
}

impl Saves {
    pub(super) fn new(
        saver: Saver,
        store: &Store,
        config: &CheckpointConfig,
        metrics: MetricSinks,
        phases: PhaseTracker,
        collective: &dyn Collective,
    ) -> Self {
        Self {
            saver,
            evaluations: (collective.rank() == 0).then(|| EvaluationRecords::new(store)),
            when_busy: config.when_busy,
            deadline: config.deadline(),
            metrics,
            phases,
            is_root: collective.rank() == 0,
            num_failed: 0,
            num_skipped: 0,
            published: None,
            is_retrying: false,
        }
    }

    /// Advances the save that is in progress. Tells all ranks whether any rank `is_asked` to stop, and the minimum over ranks
    /// of `waited`, the seconds that a rank spent in the exchanges of the step. Uses a single all-reduce. Every rank calls it
    /// after each step.
    pub(super) fn poll(
        &mut self,
        is_asked: bool,
        waited: f64,
        collective: &dyn Collective,
    ) -> Result<Polled, TrainError> {
        let mut waits = vec![0.0; collective.world_size()];
        waits[collective.rank()] = waited as f32;
        let report = self.saver.report(Instant::now());
        let start = Instant::now();
        let (num_asked, summed) = sum(is_asked, report, &mut waits, collective)?;
        let waited = start.elapsed();
        let least_wait = waits.into_iter().fold(f32::INFINITY, f32::min);
        if let Some(event) = self.saver.advance(summed, Instant::now(), collective)? {
            self.log(event);
        }
        let is_busy = self.saver.is_busy();
        Ok(Polled {
            is_asked: num_asked > 0.0,
            is_free: !is_busy && summed.held == 0.0,
            is_stuck: !is_busy && summed.stuck > 0.0,
            least_wait: Duration::try_from_secs_f32(least_wait).unwrap_or_default(),
            waited,
        })
    }

    /// Begins a save if none is in progress; otherwise does what `checkpoint.when_busy` says. Returns the time that
    /// training waited.
    pub(super) fn begin(
        &mut self,
        run: &RunState,
        polled: Polled,
        collective: &dyn Collective,
    ) -> Result<Duration, TrainError> {
        let start = Instant::now();
        let step = run.trainer.counters.step;
        if polled.is_stuck {
            return self.fail(step).map(|()| start.elapsed());
        }
        if !polled.is_free {
            match self.when_busy {
                WhenBusy::Skip => {
                    self.num_skipped += 1;
                    if self.is_root {
                        tracing::warn!(
                            "the previous save is still being {}, so that of step {step} is left out; save less \
                             often, or set checkpoint.when_busy: wait",
                            self.busy_state()
                        );
                        self.record(MetricKind::Counter, "checkpoint/skipped", step, self.num_skipped as f64);
                    }
                    return Ok(start.elapsed());
                }
                WhenBusy::Wait => {
                    if self.is_root {
                        tracing::warn!(
                            "step {step} waits for the previous save, which is still being {}",
                            self.busy_state()
                        );
                    }
                    if self.wait_until_free_or_stuck(collective)?.is_stuck {
                        return self.fail(step).map(|()| start.elapsed());
                    }
                }
            }
        }
        begin_save(run, &mut self.saver, start)?;
        let stall = start.elapsed();
        self.record(MetricKind::Seconds, "checkpoint/stall_seconds", step, stall.as_secs_f64());
        tracing::debug!(step, seconds = stall.as_secs_f64(), "copied for a save");
        Ok(stall)
    }

    /// Returns what is still being done with the save: it is written, or, after it was given up, taken back.
    fn busy_state(&self) -> &'static str {
        if self.saver.is_busy() { "written" } else { "taken back" }
    }

    /// Saves the state and returns when the checkpoint is published. Retries failed saves as often as
    /// `checkpoint.max_failures` allows. In a `hurry`, older checkpoints are not deleted.
    pub(super) fn finish(
        &mut self,
        run: &RunState,
        hurry: bool,
        collective: &dyn Collective,
    ) -> Result<(), TrainError> {
        let step = run.trainer.counters.step;
        if hurry {
            self.saver.hurry();
        }
        self.wait(collective)?;
        while self.published != Some(step) {
            // Gives the store time to recover. Training has stopped, so the pause costs nothing.
            std::thread::sleep(RETRY_PAUSE * u32::from(self.is_retrying));
            begin_save(run, &mut self.saver, Instant::now())?;
            self.wait(collective)?;
            self.is_retrying = true;
        }
        if let Some(evaluations) = &mut self.evaluations {
            evaluations.finish(self.deadline);
        }
        Ok(())
    }

    /// Keeps the evaluation of a step on rank 0, and records it beside the checkpoint when that is published.
    pub(super) fn evaluated(&mut self, step: u64, evaluation: Evaluation) {
        if let Some(evaluations) = &mut self.evaluations {
            evaluations.add(step, evaluation);
        }
    }

    /// Returns whether the checkpoint of a step, which is published, has no evaluation. Rank 0 knows; the others return false.
    pub(super) fn lacks_evaluation(&self, step: u64) -> bool {
        self.evaluations.as_ref().is_some_and(|evaluations| evaluations.is_missing(step))
    }

    /// Records the evaluation of a step whose checkpoint was published by an earlier attempt, on rank 0.
    pub(super) fn evaluated_later(&mut self, step: u64, evaluation: Evaluation) {
        if let Some(evaluations) = &mut self.evaluations {
            evaluations.add(step, evaluation);
            evaluations.published(step);
        }
    }

    /// Returns the step of the newest checkpoint that this attempt has published.
    pub(super) fn published(&self) -> Option<u64> {
        self.published
    }

    fn record(&self, kind: MetricKind, name: &str, step: u64, value: f64) {
        self.metrics.record(Metric { name, step, value, kind });
    }

    /// Counts the save of `step` as failed, because it cannot begin.
    fn fail(&mut self, step: u64) -> Result<(), TrainError> {
        let event = self.saver.cannot_begin(step)?;
        self.log(event);
        Ok(())
    }

    /// Returns when no save is in progress, or when a save that was given up cannot be taken back.
    fn wait_until_free_or_stuck(&mut self, collective: &dyn Collective) -> Result<Polled, TrainError> {
        loop {
            let polled = self.poll(false, 0.0, collective)?;
            if polled.is_free || polled.is_stuck {
                return Ok(polled);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Returns when no save is in progress. Waits longer than [`Self::wait_until_free_or_stuck`], because no later save
    /// follows a run's last one.
    ///
    /// # Errors
    /// When a save that was given up has not been taken back after twice the deadline.
    fn wait(&mut self, collective: &dyn Collective) -> Result<(), TrainError> {
        let mut stuck_polls = 0;
        // Counts polls instead of seconds, so that all ranks stop waiting at the same poll.
        let limit = u32::try_from(2 * self.deadline.as_millis() / POLL_INTERVAL.as_millis()).unwrap_or(u32::MAX);
        loop {
            if self.poll(false, 0.0, collective)?.is_free {
                return Ok(());
            }
            if !self.saver.is_busy() {
                stuck_polls += 1;
            }
            if stuck_polls > limit {
                return Err(TrainError::Checkpoint(CheckpointError::GivenUp {
                    count: self.num_failed,
                    last: self.saver.why_held(),
                }));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn log(&mut self, event: SaveEvent) {
        match event {
            SaveEvent::Published { step, seconds, bytes } => {
                self.published = Some(step);
                self.phases.checkpoint(step);
                if let Some(evaluations) = &mut self.evaluations {
                    evaluations.published(step);
                }
                if self.is_root {
                    tracing::info!("checkpoint of step {step} published ({seconds:.2} s)");
                }
                self.record(MetricKind::Seconds, "checkpoint/seconds", step, seconds);
                self.record(MetricKind::Gauge, "checkpoint/bytes", step, bytes as f64);
                self.record(MetricKind::Counter, "checkpoint/failures", step, self.num_failed as f64);
            }
            SaveEvent::Deleted { steps } => {
                if self.is_root {
                    tracing::info!("deleted the checkpoints of steps {steps:?}, according to checkpoint.keep_*");
                }
            }
            SaveEvent::NotTidied { step, error } => {
                if self.is_root {
                    tracing::warn!(
                        "the checkpoint of step {step} is published; older ones could not be deleted: {error}"
                    );
                }
            }
            SaveEvent::Failed { step, error } => {
                self.num_failed += 1;
                // The checkpoint may have been published and then found damaged.
                self.published = self.published.filter(|&published| published != step);
                if self.is_root {
                    tracing::error!(
                        "the save of step {step} failed: {error}; training continues, and the next save tries again"
                    );
                }
                self.record(MetricKind::Counter, "checkpoint/failures", step, self.num_failed as f64);
            }
        }
    }
}

/// Returns the number of ranks that are asked to stop, and the sum of all ranks' reports. Sums `more` in the same exchange.
fn sum(
    is_asked: bool,
    own: Report,
    more: &mut [f32],
    collective: &dyn Collective,
) -> Result<(f32, Report), CollectiveError> {
    let mut sums = vec![f32::from(u8::from(is_asked)), own.finished, own.failed, own.held, own.stuck];
    let num_own = sums.len();
    sums.extend_from_slice(more);
    collective.all_reduce_sum_f32(&mut sums)?;
    more.copy_from_slice(&sums[num_own..]);
    Ok((sums[0], Report { finished: sums[1], failed: sums[2], held: sums[3], stuck: sums[4] }))
}

/// Returns the sum of all ranks' reports, for callers that save without a training loop.
///
/// # Errors
/// When the ranks cannot reach each other.
pub fn sum_reports(own: Report, collective: &dyn Collective) -> Result<Report, CollectiveError> {
    sum(false, own, &mut [], collective).map(|(_, summed)| summed)
}

/// The state of saves and stop requests over all ranks. All but `waited` is the same on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Polled {
    /// Whether any rank was asked to stop.
    pub(super) is_asked: bool,
    /// Whether a save can begin on all ranks.
    pub(super) is_free: bool,
    /// Whether no save is in progress, but none can begin, because a rank cannot finish taking back an earlier one.
    pub(super) is_stuck: bool,
    /// The least time that a rank says it waited.
    pub(super) least_wait: Duration,
    /// The time of the exchange of this poll on this rank.
    pub(super) waited: Duration,
}
