//! The progress line: redrawn in place on a terminal, a plain line every so often elsewhere.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Terminal;

/// The speed shown is that of about the last so many seconds.
const SPEED_WINDOW: Duration = Duration::from_secs(30);

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Optimizer steps done since the run began.
    pub step: u64,
    /// Training samples seen since the run began, over all ranks.
    pub samples: u64,
    /// Mean loss of late; none before the first.
    pub loss: Option<f64>,
    /// log2 of the loss scale, in half-precision runs.
    pub lg_loss_scale: Option<f64>,
}

/// The progress line of rank 0.
#[derive(Debug)]
pub struct Progress {
    terminal: Terminal,
    bar: Option<ProgressBar>,
    total: u64,
    interval: Duration,
    next_line: Option<Instant>,
    speed: Speed,
}

impl Progress {
    /// A line for a run of `total` steps; where `terminal` is none, one line every `interval`.
    /// Other ranks have no progress line: they make none.
    pub fn new(terminal: &Terminal, total: u64, interval: Duration) -> Self {
        let bar = terminal.is_interactive().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            // An unreadable template leaves indicatif's own style.
            if let Ok(style) = ProgressStyle::with_template("{wide_bar:.cyan/dim} {msg}") {
                bar.set_style(style);
            }
            terminal.bars().add(bar)
        });
        Self { terminal: terminal.clone(), bar, total, interval, next_line: None, speed: Speed::default() }
    }

    /// Shows where the run stands at `now`. Cheap enough for every step. The first reading of a process
    /// is where it starts: it shows no speed yet.
    pub fn update(&mut self, now: Instant, reading: Reading) {
        self.speed.record(now, &reading);
        match &self.bar {
            Some(bar) => {
                bar.set_position(reading.step);
                bar.set_message(self.line(&reading));
            }
            None if self.next_line.is_none_or(|due| now >= due) || reading.step >= self.total => {
                self.next_line = Some(now + self.interval);
                self.terminal.print(&self.line(&reading));
            }
            None => {}
        }
    }

    fn line(&self, reading: &Reading) -> String {
        line(reading, self.total, self.speed.per_second())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon(); // the last line stays to be read
        }
    }
}

/// How fast a run goes: readings of about the last [`SPEED_WINDOW`], at most one a second.
#[derive(Debug, Default)]
struct Speed {
    window: VecDeque<(Instant, u64, u64)>,
    latest: Option<(Instant, u64, u64)>,
}

/// Steps and images a second.
#[derive(Debug, Clone, Copy, PartialEq)]
struct PerSecond {
    steps: f64,
    images: f64,
}

impl Speed {
    fn record(&mut self, now: Instant, reading: &Reading) {
        let entry = (now, reading.step, reading.samples);
        self.latest = Some(entry);
        if self.window.back().is_none_or(|last| now.duration_since(last.0) >= Duration::from_secs(1)) {
            self.window.push_back(entry);
        }
        // One reading from before the window stays, so that slow steps have a beginning.
        while self.window.get(1).is_some_and(|second| now.duration_since(second.0) >= SPEED_WINDOW) {
            self.window.pop_front();
        }
    }

    fn per_second(&self) -> Option<PerSecond> {
        let (first, last) = (self.window.front()?, self.latest.as_ref()?);
        let seconds = last.0.duration_since(first.0).as_secs_f64();
        (seconds > 0.0 && last.1 > first.1).then(|| PerSecond {
            steps: (last.1 - first.1) as f64 / seconds,
            images: last.2.saturating_sub(first.2) as f64 / seconds,
        })
    }
}

fn line(reading: &Reading, total: u64, speed: Option<PerSecond>) -> String {
    let mut line = format!("step {}/{total}", reading.step);
    if let Some(loss) = reading.loss {
        let _ = write!(line, "  loss {loss:.4}"); // writing to a string cannot fail
    }
    if let Some(scale) = reading.lg_loss_scale {
        let _ = write!(line, "  lg_loss_scale {scale:.2}"); // writing to a string cannot fail
    }
    if let Some(speed) = speed {
        let left = total.saturating_sub(reading.step) as f64 / speed.steps;
        let _ = write!(line, "  {} images/s  {} left", significant(speed.images), duration(left));
    }
    line
}

/// Three digits that mean something.
fn significant(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// Seconds as `4s`, `3m05s`, `2h07m`, `5d03h`.
fn duration(seconds: f64) -> String {
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
    use super::*;

    fn reading(step: u64) -> Reading {
        Reading { step, samples: 16 * step, loss: Some(0.123_456), lg_loss_scale: None }
    }

    #[test]
    fn a_line_says_what_is_known() {
        assert_eq!(line(&reading(3), 100, None), "step 3/100  loss 0.1235");
        let half = Reading { lg_loss_scale: Some(20.003), loss: None, ..reading(40) };
        let speed = PerSecond { steps: 0.5, images: 8.0 };
        assert_eq!(line(&half, 100, Some(speed)), "step 40/100  lg_loss_scale 20.00  8.00 images/s  2m00s left");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.5, 9.999, 56.78, 99.99, 1234.5].map(significant), ["0.50", "10.0", "56.8", "100", "1234"]);
        assert_eq!([0.4, 59.6, 185.0, 7620.0, 442_800.0].map(duration), ["0s", "1m00s", "3m05s", "2h07m", "5d03h"]);
    }

    #[test]
    fn the_speed_is_that_of_late() {
        let start = Instant::now();
        let mut speed = Speed::default();
        speed.record(start, &reading(1000)); // a resumed run: what was done before does not count
        assert_eq!(speed.per_second(), None);
        for second in 1..=60 {
            speed.record(start + Duration::from_secs(second), &reading(1000 + second));
        }
        assert_eq!(speed.per_second().unwrap(), PerSecond { steps: 1.0, images: 16.0 });
        for second in 61..=120 {
            speed.record(start + Duration::from_secs(second), &reading(1060 + 3 * (second - 60)));
        }
        assert_eq!(speed.per_second().unwrap(), PerSecond { steps: 3.0, images: 48.0 });
    }

    #[test]
    fn many_steps_a_second_and_steps_longer_than_the_window_both_have_a_speed() {
        let start = Instant::now();
        let mut fast = Speed::default();
        for step in 0..=1000 {
            fast.record(start + Duration::from_millis(step), &reading(step));
        }
        assert_eq!(fast.per_second().unwrap().steps, 1000.0);
        let mut slow = Speed::default();
        for step in 0..=3 {
            slow.record(start + 100 * step * Duration::from_secs(1), &reading(u64::from(step)));
        }
        assert_eq!(slow.per_second().unwrap().steps, 0.01);
    }
}
