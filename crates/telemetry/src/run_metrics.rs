//! The metrics of a run for Prometheus.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use admiral_contract::{Ledger, Phase};
use admiral_exposition::{Family, Health, Source, Table, Unit};
use serde_json::json;

use super::families;
use super::metrics::{Metric, MetricSink};

const BUILD: Family = Family::gauge("admiral_build_info", "The version, as a label; the value is 1.");
const STEPS: Family = Family::counter("admiral_steps", "Steps that are done since the run began.");
const PLANNED: Family = Family::gauge("admiral_planned_steps", "The last step of the run.");
const CHECKPOINT: Family = Family::gauge("admiral_checkpoint_step", "Step of the newest checkpoint.");
const RANKS: Family = Family::gauge("admiral_ranks", "Ranks of the run.");
const LOSS_SCALE_FLOOR: Family =
    Family::gauge("admiral_loss_scale_floor_log2", "Base-2 logarithm of the lowest loss scale; only with one.");
const STEP_AGE: Family = Family::gauge_in(
    "admiral_step_age",
    Unit::Seconds,
    "Time since the last step, or since the start before the first.",
);
const STEP_TIME: Family =
    Family::gauge_in("admiral_last_step_timestamp", Unit::Seconds, "Time of the last step, since 1970-01-01 in UTC.");
const PHASE_AGE: Family =
    Family::gauge_in("admiral_phase", Unit::Seconds, "Time since rank 0 entered its phase, by phase.");
const LOST_LINES: Family = Family::counter("admiral_metrics_file_lost_lines", "Lines that metrics.jsonl lacks.");

/// The counter of failures to serve or write metrics.
const FAILURES: Family = Family::counter("admiral_export_failures", "Failures to serve or write metrics.");

/// The metrics of a run. Rank 0 records them as a [`MetricSink`], and other threads read them as a [`Source`]. Clones
/// share them.
#[derive(Debug, Clone)]
pub struct RunMetrics(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    ledger: Arc<Ledger>,
    /// A phase that lasts this long is a standstill.
    stall: Duration,
    started: Instant,
    /// The number of steps that are done; [`NO_STEP`] before the first step of this process.
    step: AtomicU64,
    /// The time of the last step, in microseconds since the start.
    step_micros: AtomicU64,
    lost_lines: AtomicU64,
}

/// Counters that begin at 0, so that their first increase is seen.
const COUNTED: [&str; 2] = ["checkpoint/failures", "checkpoint/skipped"];

const NO_STEP: u64 = u64::MAX;

impl RunMetrics {
    /// Creates the metrics of the run in `run_folder`, with `num_ranks` ranks and `planned_steps` steps. `ledger` is that
    /// of this rank. Rank 0 stands still if a phase lasts as long as `stall`.
    #[must_use]
    pub fn new(
        run_folder: &Path,
        version: &str,
        num_ranks: usize,
        planned_steps: u64,
        ledger: Arc<Ledger>,
        stall: Duration,
    ) -> Self {
        let folder = std::path::absolute(run_folder).unwrap_or_else(|_| run_folder.to_owned());
        let mut table = Table::new(&[("run", &folder.to_string_lossy())]);
        table.set_with(&BUILD, &[("version", version)], 1.0);
        table.set(&PLANNED, planned_steps as f64);
        table.set(&RANKS, num_ranks as f64);
        for name in COUNTED {
            if let Some((family, _)) = families::of_run(&Metric::counter(name, 0, 0.0)) {
                table.set(&family, 0.0);
            }
        }
        Self(Arc::new(Shared {
            table: Mutex::new(table),
            ledger,
            stall,
            started: Instant::now(),
            step: AtomicU64::new(NO_STEP),
            step_micros: AtomicU64::new(0),
            lost_lines: AtomicU64::new(0),
        }))
    }

    /// Returns the family that counts failures to serve or write these metrics.
    #[must_use]
    pub fn failures() -> Family {
        FAILURES
    }

    /// Records that `step` is done. Takes nanoseconds, and never waits.
    pub fn step_done(&self, step: u64) {
        let micros = u64::try_from(self.0.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.0.step_micros.store(micros, Ordering::Relaxed);
        self.0.step.store(step, Ordering::Release);
    }

    /// Records the base-2 logarithm of the lowest loss scale.
    pub fn loss_scale_floor(&self, lg: f64) {
        self.lock().set(&LOSS_SCALE_FLOOR, lg);
    }

    /// Records the number of lines that `metrics.jsonl` lacks.
    pub fn lost_lines(&self, num: u64) {
        self.0.lost_lines.store(num, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the last step of this process, and the time since it, or since the start before the first step.
    fn last_step(&self) -> (Option<u64>, Duration) {
        let step = Some(self.0.step.load(Ordering::Acquire)).filter(|&step| step != NO_STEP);
        let at = Duration::from_micros(self.0.step_micros.load(Ordering::Relaxed));
        (step, self.0.started.elapsed().saturating_sub(at))
    }
}

impl MetricSink for RunMetrics {
    fn record(&self, metric: Metric<'_>) {
        if let Some((family, labels)) = families::of_run(&metric) {
            let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            self.lock().set_with(&family, &labels, metric.value);
        }
    }

    fn record_of_rank(&self, metric: Metric<'_>, rank: usize) {
        if let Some(family) = families::of_rank(&metric) {
            self.lock().set_with(&family, &[("rank", &rank.to_string())], metric.value);
        }
    }

    fn commit(&self, _: u64, _: Instant) {}
}

impl Source for RunMetrics {
    fn table(&self) -> Table {
        let mut table = self.lock().clone();
        let (step, age) = self.last_step();
        let reading = self.0.ledger.read();
        if let Some(step) = step {
            table.set(&STEPS, step as f64);
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(age);
            table.set(&STEP_TIME, at.as_secs_f64());
        }
        table.set(&STEP_AGE, age.as_secs_f64());
        table.set(&CHECKPOINT, reading.checkpoint_step as f64);
        table.set_with(&PHASE_AGE, &[("phase", name_of(reading.phase))], reading.phase_seconds);
        table.set(&LOST_LINES, self.0.lost_lines.load(Ordering::Relaxed) as f64);
        table
    }

    fn health(&self) -> Health {
        let (step, age) = self.last_step();
        let reading = self.0.ledger.read();
        let details = json!({
            "phase": reading.phase,
            "phase_seconds": reading.phase_seconds,
            "step": step,
            "last_step": reading.last_step,
            "seconds_since_step": age.as_secs_f64(),
            "checkpoint_step": reading.checkpoint_step,
        });
        Health { is_healthy: reading.phase_seconds < self.0.stall.as_secs_f64(), details }
    }
}

/// Returns the name of a phase, as in the launcher's files.
fn name_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Start => "start",
        Phase::Data => "data",
        Phase::Forward => "forward",
        Phase::Backward => "backward",
        Phase::Reduce => "reduce",
        Phase::Exchange => "exchange",
        Phase::Optimizer => "optimizer",
        Phase::Checkpoint => "checkpoint",
        Phase::Sample => "sample",
        Phase::Log => "log",
        Phase::End => "end",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(stall: Duration) -> (RunMetrics, Arc<Ledger>) {
        let ledger = Arc::new(Ledger::private());
        (RunMetrics::new("/runs/a".as_ref(), "1.2", 2, 100, Arc::clone(&ledger), stall), ledger)
    }

    #[test]
    fn values_of_the_run_and_of_ranks_are_in_the_table() {
        let (metrics, ledger) = metrics(Duration::from_secs(300));
        assert_eq!(metrics.table().get(&STEPS, &[]), None, "there is no step yet");
        ledger.enter(Phase::Forward, 0);
        metrics.record(Metric::gauge("loss", 7, 0.5));
        metrics.record_of_rank(Metric::seconds("step_seconds", 7, 0.25), 1);
        metrics.step_done(7);
        let text = admiral_exposition::encode(&metrics.table(), admiral_exposition::Format::Prometheus);
        for line in [
            "admiral_loss{run=\"/runs/a\"} 0.5\n",
            "admiral_rank_step_seconds{run=\"/runs/a\",rank=\"1\"} 0.25\n",
            "admiral_steps_total{run=\"/runs/a\"} 7\n",
            "admiral_phase_seconds{run=\"/runs/a\",phase=\"forward\"} ",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let health = metrics.health();
        assert!(health.is_healthy);
        assert_eq!((&health.details["phase"], &health.details["step"]), (&json!("forward"), &json!(7)));
    }

    #[test]
    fn a_rank_that_stands_still_is_unhealthy() {
        let (metrics, _ledger) = metrics(Duration::ZERO);
        assert!(!metrics.health().is_healthy);
    }

    #[test]
    fn phases_have_their_names_in_files() {
        for phase in [Phase::Start, Phase::Exchange, Phase::Optimizer, Phase::End] {
            assert_eq!(json!(phase), json!(name_of(phase)));
        }
    }
}
