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
/// A run that continues from an earlier step appends lines of steps that are there already. The later value is the one
/// that belongs to the run.
#[derive(Debug)]
pub struct MetricsFile {
    lines: LineFile,
    values: RefCell<Map<String, Value>>,
    /// The step of the newest value.
    step: Cell<u64>,
    has_warned: Cell<bool>,
}

impl MetricsFile {
    /// Starts to append to the file in `run_folder`, from a thread of its own. The file is made with the first line.
    ///
    /// # Errors
    /// If the system provides no thread.
    pub fn start(run_folder: &Path) -> io::Result<Self> {
        Ok(Self {
            lines: LineFile::start(run_folder.join(NAME), Existing::Append, LOSS)?,
            values: RefCell::default(),
            step: Cell::new(0),
            has_warned: Cell::new(false),
        })
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
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.lines.append(json!({ "step": step, "time": time, "values": values }).to_string().into_bytes());
    }
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
        let file = MetricsFile::start(folder.path()).unwrap();
        file.record(Metric::gauge("loss", 10, 0.5));
        file.record(Metric::counter("samples", 10, 160.0));
        file.record(Metric::gauge("loss", 10, f64::NAN));
        file.commit(10, Instant::now());
        file.commit(11, Instant::now());
        file.record(Metric::gauge("loss", 12, f64::NEG_INFINITY));
        assert_eq!(file.finish(PATIENCE), None);
        let file = MetricsFile::start(folder.path()).unwrap();
        file.record(Metric::gauge("loss", 10, 0.25));
        file.commit(10, Instant::now());
        assert_eq!(file.finish(PATIENCE), None);
        let lines = read(folder.path());
        let shown: Vec<(&Value, &Value)> = lines.iter().map(|line| (&line["step"], &line["values"])).collect();
        let expected = [
            (json!(10), json!({"loss": "NaN", "samples": 160.0})),
            (json!(12), json!({"loss": "-Infinity"})),
            (json!(10), json!({"loss": 0.25})),
        ];
        assert_eq!(shown, expected.iter().map(|(step, values)| (step, values)).collect::<Vec<_>>());
        assert!(lines[0]["time"].as_f64().unwrap() > 1.7e9);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_reported_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(NAME)).unwrap();
        let file = MetricsFile::start(folder.path()).unwrap();
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
