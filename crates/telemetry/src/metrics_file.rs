//! `metrics.jsonl`: the metrics of a run as lines of JSON.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use admiral_contract::{Existing, LineFile};
use serde_json::{Map, Value, json};

use super::metrics::{Metric, MetricSink};

/// The name of the file in the run's folder.
const NAME: &str = "metrics.jsonl";

/// What follows from lost lines.
const LOSS: &str = "it lacks metrics";

/// Appends a line for each commit: `{"step": 100, "time": 1764500000.5, "values": {"loss": 0.25}}`. A value is the last one
/// since the commit before. JSON has no values that are not finite, so these are the strings `NaN`, `Infinity` and
/// `-Infinity`.
///
/// Each start of a run appends `{"step": 101, "time": 1764500000.5, "start": true, "values": {}}`, where `step` is the first
/// step that it does. Values of this step and later ones that are above the line do not belong to the run any more.
#[derive(Debug)]
pub struct MetricsFile {
    lines: LineFile,
    values: RefCell<Map<String, Value>>,
    /// The step of the newest value.
    step: Cell<u64>,
    has_warned: Cell<bool>,
}

impl MetricsFile {
    /// Starts to append to the file in `run_folder`, from a thread of its own. The run does `first_step` first.
    ///
    /// # Errors
    /// If the system provides no thread.
    pub fn start(run_folder: &Path, first_step: u64) -> io::Result<Self> {
        let lines = LineFile::start(run_folder.join(NAME), Existing::Append, LOSS)?;
        let line = json!({ "step": first_step, "time": now(), "start": true, "values": {} });
        lines.append(line.to_string().into_bytes());
        Ok(Self { lines, values: RefCell::default(), step: Cell::new(0), has_warned: Cell::new(false) })
    }

    /// Returns the number of lines that could not be written.
    #[must_use]
    pub fn num_lost(&self) -> u64 {
        self.lines.num_lost()
    }

    /// Appends the values since the last commit, and waits up to `patience` for the disk. Returns why lines are missing,
    /// if some are and the log does not say it yet.
    #[must_use]
    pub fn finish(self, patience: Duration) -> Option<String> {
        self.append(self.step.get());
        let has_warned = self.has_warned.get();
        self.lines.finish(patience).filter(|_| !has_warned)
    }

    fn append(&self, step: u64) {
        let values = self.values.take();
        if values.is_empty() {
            return;
        }
        self.lines.append(json!({ "step": step, "time": now(), "values": values }).to_string().into_bytes());
    }
}

/// Returns the seconds since 1970-01-01 in UTC.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl MetricSink for MetricsFile {
    fn record(&self, metric: Metric<'_>) {
        let value = match metric.value {
            value if value.is_nan() => json!("NaN"),
            f64::INFINITY => json!("Infinity"),
            f64::NEG_INFINITY => json!("-Infinity"),
            value => json!(value),
        };
        self.values.borrow_mut().insert(metric.name.to_owned(), value);
        self.step.set(metric.step);
    }

    fn commit(&self, step: u64, _: Instant) {
        self.append(step);
        if !self.has_warned.get()
            && let Some(problem) = self.lines.problem()
        {
            self.has_warned.set(true);
            tracing::warn!("{problem}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn read(folder: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(folder.join(NAME)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn each_commit_is_a_line_and_a_resumed_run_appends() {
        let folder = tempfile::tempdir().unwrap();
        let file = MetricsFile::start(folder.path(), 1).unwrap();
        file.record(Metric::gauge("loss", 10, 0.5));
        file.record(Metric::counter("samples", 10, 160.0));
        file.record(Metric::gauge("loss", 10, f64::NAN));
        file.commit(10, Instant::now());
        file.commit(11, Instant::now());
        file.record(Metric::gauge("loss", 12, f64::NEG_INFINITY));
        assert_eq!(file.finish(PATIENCE), None);
        let file = MetricsFile::start(folder.path(), 6).unwrap();
        file.record(Metric::gauge("loss", 10, 0.25));
        file.commit(10, Instant::now());
        assert_eq!(file.finish(PATIENCE), None);
        let lines = read(folder.path());
        let is_start = |line: &Value| line["start"] == true;
        let shown: Vec<_> = lines.iter().map(|line| (&line["step"], is_start(line), &line["values"])).collect();
        let expected = [
            (json!(1), true, json!({})),
            (json!(10), false, json!({"loss": "NaN", "samples": 160.0})),
            (json!(12), false, json!({"loss": "-Infinity"})),
            (json!(6), true, json!({})),
            (json!(10), false, json!({"loss": 0.25})),
        ];
        assert_eq!(
            shown,
            expected.iter().map(|(step, is_start, values)| (step, *is_start, values)).collect::<Vec<_>>()
        );
        assert!(lines.iter().all(|line| line["time"].as_f64().unwrap() > 1.7e9));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_reported_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(NAME)).unwrap();
        let file = MetricsFile::start(folder.path(), 1).unwrap();
        while file.num_lost() == 0 {
            file.record(Metric::gauge("loss", 10, 0.5));
            file.commit(10, Instant::now());
            std::thread::sleep(Duration::from_millis(5));
        }
        file.commit(10, Instant::now());
        assert!(file.has_warned.get() && file.num_lost() > 0);
        assert_eq!(file.finish(PATIENCE), None, "it was logged already");
    }
}
