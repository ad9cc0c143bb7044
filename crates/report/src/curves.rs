//! The curves of a run, from `metrics.jsonl` or from event files, in bounded memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use admiral_contract::files::open_regular;
use admiral_telemetry::{BoardEntry, read_entries};
use serde::Deserialize;
use serde_json::Value;

/// The curves that are shown first, if the run has them. The others are folded.
pub(crate) const FIRST: [&str; 9] =
    ["loss", "images_per_second", "grad_norm", "learning_rate", "mse", "vb", "acc@1", "val_loss", "val_acc@1"];
/// The largest number of curves of results ([`is_result`]), and of others. Values of further curves are counted.
const MAX_CURVES: usize = 64;
/// A curve has at most this many points. Of more, some are left out evenly.
const MAX_POINTS: usize = 2000;
/// The longest line of `metrics.jsonl` in bytes, and the longest name of a curve.
const MAX_LINE: u64 = 1 << 20;
const MAX_NAME: usize = 200;

/// The curves of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curves {
    curves: BTreeMap<String, Curve>,
    /// What is not shown, for people.
    pub notes: Vec<String>,
    num_left_out: usize,
}

/// A curve. `points` has at most one point for each `stride` steps.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Curve {
    points: BTreeMap<u64, (u64, f64)>,
    stride: u64,
}

/// A line of `metrics.jsonl`.
#[derive(Deserialize)]
struct Line {
    step: u64,
    /// Whether a run starts with this step, so that what is known of this step and later ones is void.
    #[serde(default)]
    start: bool,
    #[serde(default)]
    values: BTreeMap<String, Value>,
}

/// Returns whether a curve is a result, which the many curves of ranks and parts must not displace.
fn is_result(name: &str) -> bool {
    FIRST.contains(&name) || name.starts_with("val_") || name.starts_with("evaluation/")
}

impl Curves {
    /// Reads `metrics.jsonl`: an object for each line with `step` and `values`. Later lines of a step replace earlier ones.
    /// A line with `start` discards the values from its step on: the run was resumed before them. A value that is no
    /// number is a gap.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read_lines(path: &Path) -> io::Result<Self> {
        let file = open_regular(path, File::options().read(true))?;
        // A file that grows is read to its present end.
        let length = file.metadata()?.len();
        let mut reader = BufReader::new(file.take(length));
        let (mut curves, mut num_unreadable) = (Self::default(), 0_u64);
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            match serde_json::from_slice::<Line>(&line) {
                Ok(Line { step, start, values }) => {
                    if start {
                        curves.discard_from(step);
                    }
                    for (name, value) in values {
                        curves.add(&name, step, value.as_f64().unwrap_or(f64::NAN));
                    }
                }
                Err(_) => num_unreadable += 1,
            }
        }
        if num_unreadable > 0 {
            curves.notes.push(format!("{num_unreadable} lines of {} cannot be read", path.display()));
        }
        Ok(curves.completed())
    }

    /// Reads the scalars of a folder of event files.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn read_events(folder: &Path) -> io::Result<Self> {
        let mut curves = Self::default();
        let left_out = read_entries(folder, |entry| match entry {
            BoardEntry::Restart { step } => curves.discard_from(step),
            BoardEntry::Scalar { tag, step, value } => curves.add(&tag, step, f64::from(value)),
            BoardEntry::Image(_) => {}
        })?;
        curves.notes.extend(left_out.files);
        Ok(curves.completed())
    }

    /// Returns whether there is no curve.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.curves.is_empty()
    }

    /// Returns the names of the curves, in the order of the alphabet.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.curves.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Curve> {
        self.curves.get(name)
    }

    fn completed(mut self) -> Self {
        if self.num_left_out > 0 {
            self.notes.push(format!("{} values of further curves are left out", self.num_left_out));
        }
        self
    }

    fn add(&mut self, name: &str, step: u64, value: f64) {
        if let Some(curve) = self.curves.get_mut(name) {
            return curve.add(step, value);
        }
        let is_alike = |other: &&String| is_result(other) == is_result(name);
        if name.len() > MAX_NAME || self.curves.keys().filter(is_alike).count() >= MAX_CURVES {
            self.num_left_out += 1;
            return;
        }
        let mut curve = Curve { points: BTreeMap::new(), stride: 1 };
        curve.add(step, value);
        self.curves.insert(name.to_owned(), curve);
    }

    fn discard_from(&mut self, step: u64) {
        for curve in self.curves.values_mut() {
            // From the end: many restarts cost no more than one.
            while let Some(last) = curve.points.last_entry().filter(|last| last.get().0 >= step) {
                last.remove();
            }
        }
        self.curves.retain(|_, curve| !curve.points.is_empty());
    }
}

impl Curve {
    fn add(&mut self, step: u64, value: f64) {
        self.points.insert(step / self.stride, (step, value));
        while self.points.len() > MAX_POINTS {
            self.stride = self.stride.saturating_mul(2);
            let points = std::mem::take(&mut self.points);
            self.points = points.into_values().map(|point| (point.0 / self.stride, point)).collect();
        }
    }

    /// Returns the points (step, value), in the order of steps.
    pub(crate) fn points(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.points.values().map(|&(step, value)| (step as f64, value))
    }

    /// Returns the last value that is a number.
    pub(crate) fn last(&self) -> Option<f64> {
        self.points.values().rev().map(|point| point.1).find(|value| value.is_finite())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &[u8]) -> Curves {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, text).unwrap();
        let mut curves = Curves::read_lines(&path).unwrap();
        let folder = format!("{}/", folder.path().display());
        curves.notes.iter_mut().for_each(|note| *note = note.replace(&folder, ""));
        curves
    }

    fn points(curves: &Curves, name: &str) -> Vec<(f64, f64)> {
        curves.get(name).unwrap().points().collect()
    }

    #[test]
    fn later_lines_of_a_step_win_and_damaged_lines_are_counted() {
        let text = concat!(
            "{\"step\": 1, \"time\": 5.5, \"values\": {\"loss\": 3, \"grad_norm\": 1.5}}\n",
            "{\"step\": 2, \"time\": 6.5, \"values\": {\"loss\": 2}}\n",
            "nonsense\n",
            "{\"step\": 2, \"time\": 7.5, \"values\": {\"loss\": 2.5}}\n",
            "{\"step\": 3, \"time\": 8.5, \"values\": {\"loss\": null}}\n",
            "{\"step\": 4, \"time\": 9",
        );
        let curves = read(text.as_bytes());
        let loss = points(&curves, "loss");
        assert_eq!(loss[..2], [(1.0, 3.0), (2.0, 2.5)]);
        assert!(loss[2].0 == 3.0 && loss[2].1.is_nan());
        assert_eq!((loss.len(), curves.get("loss").unwrap().last()), (3, Some(2.5)));
        assert_eq!(points(&curves, "grad_norm"), [(1.0, 1.5)]);
        assert_eq!(curves.notes, ["2 lines of metrics.jsonl cannot be read"]);
    }

    #[test]
    fn a_resumed_run_discards_the_steps_that_it_does_again() {
        let mut text = String::new();
        let mut log = |steps: std::ops::RangeInclusive<u64>, loss: f64| {
            text += &format!("{{\"step\": {}, \"start\": true}}\n", steps.start());
            for step in steps.filter(|step| step % 10 == 0) {
                text += &format!("{{\"step\": {step}, \"values\": {{\"loss\": {loss}}}}}\n");
            }
        };
        log(1..=150, 2.0);
        log(101..=120, 1.0);
        let curves = read(text.as_bytes());
        let expected: Vec<_> =
            (1..=12).map(|number| (10.0 * f64::from(number), if number <= 10 { 2.0 } else { 1.0 })).collect();
        assert_eq!((points(&curves, "loss"), curves.notes.len()), (expected, 0));
    }

    #[test]
    fn memory_is_bounded() {
        let mut curves = Curves::default();
        for step in 0..100_000 {
            curves.add("loss", step, step as f64);
        }
        let loss = points(&curves, "loss");
        assert!((MAX_POINTS / 2..=MAX_POINTS).contains(&loss.len()), "{}", loss.len());
        assert!(loss.is_sorted_by(|a, b| a.0 < b.0) && loss.iter().all(|(step, value)| step == value));
        assert_eq!(curves.get("loss").unwrap().last(), Some(99_999.0));
        for number in 0..2 * MAX_CURVES {
            curves.add(&format!("curve {number}"), 1, 0.0);
        }
        curves.add(&"x".repeat(1000), 1, 0.0);
        // `loss` is a result.
        assert_eq!((curves.curves.len(), curves.num_left_out), (1 + MAX_CURVES, MAX_CURVES + 1));
        curves.add("evaluation/ema_0.9999/FID", 1, 3.0);
        assert_eq!(curves.get("evaluation/ema_0.9999/FID").unwrap().last(), Some(3.0), "late results are kept");
        for number in 0..2 * MAX_CURVES {
            curves.add(&format!("val_{number}"), 1, 0.0);
        }
        assert_eq!(curves.curves.len(), 2 * MAX_CURVES);
        let long = read(&vec![b'['; (2 * MAX_LINE + 5) as usize]);
        assert!(long.is_empty() && long.notes[0].starts_with("3 lines"), "{:?}", long.notes);
    }

    #[test]
    fn a_pipe_is_no_file_of_metrics() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(Curves::read_lines(&path).is_err());
    }
}
