//! The progress line: redrawn in place on a terminal, printed at an interval elsewhere.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Terminal;
use super::metrics::{Metric, MetricSink};

/// The speed is the mean over about this time.
const SPEED_WINDOW: Duration = Duration::from_secs(30);

/// The progress line of rank 0. Other ranks have none.
///
/// As a [`MetricSink`], it shows the metrics `loss`, `bpd`, `samples` and `lg_loss_scale`, and ignores all others. It keeps
/// the last value of each, and updates the line at each commit:
///
/// - `loss` is the mean loss. Before its first value, the line shows no loss.
/// - `bpd` is the mean of bits per dimension. Before its first value, the line shows none.
/// - `samples` is the number of training samples since the run began, over all ranks. The speed follows from its
///   growth, so record it before the first commit. A process that never records it shows a speed of 0 images/s.
/// - `lg_loss_scale` is log2 of the loss scale. The line shows it only if `shows_loss_scale` was given.
///
/// The first commit of a process is the start of its speed measurement, so that the line shows no speed yet.
#[derive(Debug)]
pub struct ProgressLine {
    terminal: Terminal,
    bar: Option<ProgressBar>,
    total_steps: u64,
    unit: Unit,
    interval: Duration,
    shows_loss_scale: bool,
    samples: Cell<u64>,
    loss: Cell<Option<f64>>,
    bpd: Cell<Option<f64>>,
    lg_loss_scale: Cell<Option<f64>>,
    next_print: Cell<Option<Instant>>,
    speed: RefCell<Speed>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Steps of training.
    Steps,
    /// Sampled images.
    Images,
}

/// The values of one progress line.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reading {
    /// The number of optimizer steps since the run began.
    step: u64,
    /// The number of training samples since the run began, over all ranks.
    samples: u64,
    loss: Option<f64>,
    bpd: Option<f64>,
    lg_loss_scale: Option<f64>,
}

impl ProgressLine {
    /// Returns the progress line of a run that ends at `total_steps`. If `terminal` is not interactive, a line is
    /// printed at most every `interval`. `shows_loss_scale` is true for half-precision runs.
    pub fn new(terminal: &Terminal, total_steps: u64, interval: Duration, shows_loss_scale: bool) -> Self {
        Self::open(terminal, total_steps, Unit::Steps, interval, shows_loss_scale)
    }

    /// Returns the progress line of a job that samples `num` images. The step of its metrics is the number of images that
    /// are there; `samples` is the number that this process and its ranks have sampled. All else is as in [`new`](Self::new).
    pub fn of_images(terminal: &Terminal, num: u64, interval: Duration) -> Self {
        Self::open(terminal, num, Unit::Images, interval, false)
    }

    fn open(terminal: &Terminal, total_steps: u64, unit: Unit, interval: Duration, shows_loss_scale: bool) -> Self {
        let bar = terminal.is_interactive().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total_steps), ProgressDrawTarget::hidden());
            // If the template cannot be parsed, indicatif's default style remains.
            if let Ok(style) = ProgressStyle::with_template("{wide_bar:.cyan/dim} {msg}") {
                bar.set_style(style);
            }
            terminal.bars().add(bar)
        });
        Self {
            terminal: terminal.clone(),
            bar,
            total_steps,
            unit,
            interval,
            shows_loss_scale,
            samples: Cell::new(0),
            loss: Cell::new(None),
            bpd: Cell::new(None),
            lg_loss_scale: Cell::new(None),
            next_print: Cell::new(None),
            speed: RefCell::default(),
        }
    }

    /// Returns whether a plain line is due at `now`.
    fn is_due(&self, step: u64, now: Instant) -> bool {
        self.next_print.get().is_none_or(|next| now >= next) || step >= self.total_steps
    }
}

impl MetricSink for ProgressLine {
    fn record(&self, metric: Metric<'_>) {
        match metric.name {
            "loss" => self.loss.set(Some(metric.value)),
            "bpd" => self.bpd.set(Some(metric.value)),
            "samples" => self.samples.set(metric.value as u64),
            "lg_loss_scale" if self.shows_loss_scale => self.lg_loss_scale.set(Some(metric.value)),
            _ => {}
        }
    }

    fn commit(&self, step: u64, now: Instant) {
        let samples = self.samples.get();
        let reading = Reading {
            step,
            samples,
            loss: self.loss.get(),
            bpd: self.bpd.get(),
            lg_loss_scale: self.lg_loss_scale.get(),
        };
        let mut speed = self.speed.borrow_mut();
        speed.add(now, &reading);
        let text = || format_line(&reading, self.total_steps, self.unit, speed.per_second());
        match &self.bar {
            Some(bar) => {
                bar.set_position(step);
                bar.set_message(text());
            }
            None if self.is_due(step, now) => {
                self.next_print.set(Some(now + self.interval));
                self.terminal.print(&text());
            }
            None => {}
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon(); // leaves the last line on the screen
        }
    }
}

/// The speed over about the last [`SPEED_WINDOW`].
#[derive(Debug, Default)]
struct Speed {
    /// Time, step and samples, at most one entry a second.
    window: VecDeque<(Instant, u64, u64)>,
    latest: Option<(Instant, u64, u64)>,
}

/// Steps and images per second.
#[derive(Debug, Clone, Copy, PartialEq)]
struct PerSecond {
    steps: f64,
    images: f64,
}

impl Speed {
    fn add(&mut self, now: Instant, reading: &Reading) {
        let entry = (now, reading.step, reading.samples);
        self.latest = Some(entry);
        if self.window.back().is_none_or(|last| now.duration_since(last.0) >= Duration::from_secs(1)) {
            self.window.push_back(entry);
        }
        // Keep one entry from before the window, so that a step longer than the window still has a start.
        while self.window.get(1).is_some_and(|second| now.duration_since(second.0) >= SPEED_WINDOW) {
            self.window.pop_front();
        }
    }

    /// Returns the speed, or `None` before the second entry.
    fn per_second(&self) -> Option<PerSecond> {
        let (first, last) = (self.window.front()?, self.latest.as_ref()?);
        let seconds = last.0.duration_since(first.0).as_secs_f64();
        (seconds > 0.0 && last.1 > first.1).then(|| PerSecond {
            steps: (last.1 - first.1) as f64 / seconds,
            images: last.2.saturating_sub(first.2) as f64 / seconds,
        })
    }
}

fn format_line(reading: &Reading, total_steps: u64, unit: Unit, speed: Option<PerSecond>) -> String {
    let mut line = match unit {
        Unit::Steps => format!("step {}/{total_steps}", reading.step),
        Unit::Images => format!("{} of {total_steps} images", reading.step),
    };
    // Writing to a string cannot fail.
    if let Some(loss) = reading.loss {
        let _ = write!(line, "  loss {loss:.4}");
    }
    if let Some(bpd) = reading.bpd {
        let _ = write!(line, "  {bpd:.4} bits/dim");
    }
    if let Some(scale) = reading.lg_loss_scale {
        let _ = write!(line, "  lg_loss_scale {scale:.2}");
    }
    if let Some(speed) = speed {
        let left = total_steps.saturating_sub(reading.step) as f64 / speed.steps;
        let _ = write!(line, "  {} images/s  {} left", format_speed(speed.images), format_duration(left));
    }
    line
}

/// Formats a number with three significant digits, and larger numbers without decimals.
fn format_speed(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// Formats seconds as `4s`, `3m05s`, `2h07m` or `5d03h`.
fn format_duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use super::*;

    fn reading(step: u64) -> Reading {
        Reading { step, samples: 16 * step, loss: Some(0.123_456), bpd: None, lg_loss_scale: None }
    }

    #[test]
    fn a_line_shows_the_known_values() {
        assert_eq!(format_line(&reading(3), 100, Unit::Steps, None), "step 3/100  loss 0.1235");
        let half = Reading { lg_loss_scale: Some(20.003), loss: None, ..reading(40) };
        let speed = PerSecond { steps: 0.5, images: 8.0 };
        let line = format_line(&half, 100, Unit::Steps, Some(speed));
        assert_eq!(line, "step 40/100  lg_loss_scale 20.00  8.00 images/s  2m00s left");
        let images = Reading { step: 128, samples: 64, loss: None, bpd: Some(3.25), lg_loss_scale: None };
        let speed = PerSecond { steps: 8.0, images: 8.0 };
        assert_eq!(
            format_line(&images, 200, Unit::Images, Some(speed)),
            "128 of 200 images  3.2500 bits/dim  8.00 images/s  9s left"
        );
    }

    #[test]
    fn numbers_are_rounded() {
        assert_eq!([0.5, 9.999, 56.78, 99.99, 1234.5].map(format_speed), ["0.50", "10.0", "56.8", "100", "1234"]);
        assert_eq!(
            [0.4, 59.6, 185.0, 7620.0, 442_800.0].map(format_duration),
            ["0s", "1m00s", "3m05s", "2h07m", "5d03h"]
        );
    }

    #[test]
    fn the_speed_follows_the_last_seconds() {
        let start = Instant::now();
        let mut speed = Speed::default();
        speed.add(start, &reading(1000)); // a resumed run: earlier steps do not count
        assert_eq!(speed.per_second(), None);
        for second in 1..=60 {
            speed.add(start + Duration::from_secs(second), &reading(1000 + second));
        }
        assert_eq!(speed.per_second().unwrap(), PerSecond { steps: 1.0, images: 16.0 });
        for second in 61..=120 {
            speed.add(start + Duration::from_secs(second), &reading(1060 + 3 * (second - 60)));
        }
        assert_eq!(speed.per_second().unwrap(), PerSecond { steps: 3.0, images: 48.0 });
    }

    #[test]
    fn short_and_very_long_steps_have_a_speed() {
        let start = Instant::now();
        let mut fast = Speed::default();
        for step in 0..=1000 {
            fast.add(start + Duration::from_millis(step), &reading(step));
        }
        assert_eq!(fast.per_second().unwrap().steps, 1000.0);
        let mut slow = Speed::default();
        for step in 0..=3 {
            slow.add(start + 100 * step * Duration::from_secs(1), &reading(u64::from(step)));
        }
        assert_eq!(slow.per_second().unwrap().steps, 0.01);
    }

    fn text(written: &Mutex<Vec<u8>>) -> String {
        String::from_utf8(written.lock().unwrap().clone()).unwrap()
    }

    /// Records the metrics of a step, and others that the line does not show.
    fn record(sink: &dyn MetricSink, step: u64, loss: Option<f64>) {
        if let Some(loss) = loss {
            sink.record(Metric::gauge("loss", step, loss));
        }
        sink.record(Metric::counter("samples", step, (16 * step) as f64));
        sink.record(Metric::gauge("lg_loss_scale", step, 20.0));
        sink.record(Metric::gauge("loss_q0", step, 9.0));
        sink.record(Metric::gauge("learning_rate", step, 1e-4));
    }

    #[test]
    fn plain_lines_are_printed_at_the_interval_and_at_the_end() {
        let (terminal, written) = Terminal::in_memory(false);
        let line = ProgressLine::new(&terminal, 100, Duration::from_secs(10), false);
        let start = Instant::now();
        record(&line, 40, None);
        assert_eq!(text(&written), "", "nothing is printed before the commit");
        line.commit(40, start);
        assert_eq!(text(&written), "step 40/100\n", "the first line has neither loss nor speed");
        for (step, seconds) in [(45, 5), (50, 10), (55, 15), (100, 19)] {
            record(&line, step, Some(1.0 / step as f64));
            line.commit(step, start + Duration::from_secs(seconds));
        }
        let expected = "step 40/100\n\
            step 50/100  loss 0.0200  16.0 images/s  50s left\n\
            step 100/100  loss 0.0100  50.5 images/s  0s left\n";
        assert_eq!(text(&written), expected);
    }

    #[test]
    fn a_terminal_shows_the_line_at_every_commit() {
        let (terminal, written) = Terminal::in_memory(true);
        let line = ProgressLine::new(&terminal, 100, Duration::from_secs(10), true);
        let bar = line.bar.clone().unwrap();
        let start = Instant::now();
        record(&line, 0, None);
        line.commit(0, start);
        assert_eq!((bar.position(), bar.message().as_str()), (0, "step 0/100  lg_loss_scale 20.00"));
        record(&line, 1, Some(0.5));
        line.commit(1, start + Duration::from_secs(1));
        let expected = "step 1/100  loss 0.5000  lg_loss_scale 20.00  16.0 images/s  1m39s left";
        assert_eq!((bar.position(), bar.message().as_str()), (1, expected));
        assert_eq!(text(&written), "", "the bar replaces plain lines");
    }
}
