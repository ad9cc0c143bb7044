//! Divides the time of a run into spans.

use serde::Serialize;

use crate::account::{Account, Seconds};
use crate::event::{Event, EventKind, IntervalSeconds, Stage};

/// A part of a run's time that belongs to one account.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Span {
    /// Its start in seconds since 1970-01-01 in UTC.
    pub start: f64,
    /// Its end.
    pub end: f64,
    /// Its account.
    pub account: Account,
    /// The number of ranks of the run at this time; of the last attempt if nobody runs it.
    pub ranks: u64,
    /// The number of these ranks with a GPU.
    pub gpus: u64,
}

impl Span {
    /// Returns its length in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.end - self.start
    }
}

/// The time of a run, divided into spans without gaps or overlaps.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ledger {
    /// The spans, in the order of time.
    pub spans: Vec<Span>,
    /// The number of attempts that failed.
    pub failures: u64,
    /// The number of checkpoints that were published.
    pub saves: u64,
    /// The number of steps of the run that are done.
    pub step: u64,
}

/// Who is at work after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worker {
    /// Neither a launcher nor ranks.
    Nobody { is_preempted: bool },
    /// The launcher, before the first attempt or after one that ended in order.
    Launcher,
    /// The launcher, which examines the hosts.
    Preflight,
    /// The launcher and perhaps the ranks of an attempt.
    Attempt,
    /// The launcher, which ends the ranks of a failed attempt.
    Shutdown,
    /// The launcher, after a failed attempt.
    Recovery,
}

/// Steps that an attempt took, and the span of their computation.
#[derive(Debug, Clone, Copy)]
struct Steps {
    span: usize,
    first: u64,
    last: u64,
}

#[derive(Debug)]
struct Reader {
    ledger: Ledger,
    worker: Worker,
    has_launcher: bool,
    /// Whether rank 0 of an attempt has begun and not ended.
    is_running: bool,
    ranks: u64,
    gpus: u64,
    step: u64,
    steps: Vec<Steps>,
}

impl Ledger {
    /// Makes the ledger of a run from its events, in the order of their times.
    #[must_use]
    pub fn of(events: &[Event]) -> Self {
        // The spans before the first attempt have its number of ranks.
        let (ranks, gpus) = events
            .iter()
            .find_map(|event| match event.kind {
                EventKind::RankBegins { world, gpus } => Some((world, gpus)),
                _ => None,
            })
            .unwrap_or_default();
        let mut reader = Reader {
            ledger: Self::default(),
            worker: Worker::Nobody { is_preempted: false },
            has_launcher: false,
            is_running: false,
            ranks,
            gpus,
            step: 0,
            steps: Vec::new(),
        };
        let mut last_time = None;
        for event in events {
            // A save has no span of its own: the interval of steps around it includes its time.
            if let EventKind::Saved { .. } = event.kind {
                reader.ledger.saves += 1;
                continue;
            }
            let start = last_time.unwrap_or(event.time);
            reader.charge(start, event.time.max(start), &event.kind);
            reader.take(&event.kind);
            last_time = Some(event.time.max(start));
        }
        reader.ledger.step = reader.step;
        reader.ledger
    }

    /// Returns the seconds of wall-clock time by account.
    #[must_use]
    pub fn wall_clock(&self) -> Seconds {
        let mut sums = Seconds::default();
        for span in &self.spans {
            sums[span.account] += span.seconds();
        }
        sums
    }
}

impl Reader {
    fn push(&mut self, start: f64, end: f64, account: Account) {
        if end > start {
            self.ledger.spans.push(Span { start, end, account, ranks: self.ranks, gpus: self.gpus });
        }
    }

    /// Charges the time before an event, which follows the last one.
    fn charge(&mut self, start: f64, end: f64, next: &EventKind) {
        let between = match self.worker {
            Worker::Nobody { is_preempted: true } => Account::Preempted,
            Worker::Nobody { is_preempted: false } => Account::Down,
            Worker::Launcher | Worker::Attempt => Account::StartProgram,
            Worker::Preflight => Account::Preflight,
            Worker::Shutdown => Account::FailureShutdown,
            Worker::Recovery => Account::FailureRestart,
        };
        match next {
            EventKind::StepsEnd { step, seconds } => self.charge_steps(start, end, *step, *seconds),
            EventKind::StageEnds { stage, .. } => {
                let account = match stage {
                    Stage::Data => Account::StartData,
                    Stage::Program => Account::StartProgram,
                    Stage::Restore => Account::StartRestore,
                    Stage::FirstStep => Account::StartWarmUp,
                };
                self.push(start, end, account);
            }
            EventKind::PreflightEnds => self.push(start, end, Account::Preflight),
            // The last save of an attempt, and its end.
            EventKind::RankEnds { .. } => self.push(start, end, Account::Checkpoint),
            EventKind::FailureFound => self.push(start, end, Account::FailureDetection),
            EventKind::AttemptEnds { has_failed: true } if self.worker != Worker::Shutdown => {
                self.push(start, end, Account::FailureDetection);
            }
            _ if self.follows_a_kill(next) => self.push(start, end, Account::Down),
            _ => self.push(start, end, between),
        }
    }

    /// Returns whether those at work before this event were killed. They would have recorded their end.
    fn follows_a_kill(&self, next: &EventKind) -> bool {
        match next {
            EventKind::LaunchBegins => !matches!(self.worker, Worker::Nobody { .. }),
            EventKind::RankBegins { .. } => {
                self.is_running || !matches!(self.worker, Worker::Nobody { .. } | Worker::Attempt)
            }
            _ => false,
        }
    }

    /// Charges an interval of steps. What was measured goes to its account, the rest are steps.
    fn charge_steps(&mut self, start: f64, end: f64, step: u64, seconds: IntervalSeconds) {
        let measured = [
            (Account::DataWait, seconds.data),
            (Account::StragglerWait, seconds.straggler),
            (Account::Exchange, seconds.exchange),
            (Account::Checkpoint, seconds.checkpoint),
            (Account::Sampling, seconds.sampling),
            (Account::Evaluation, seconds.evaluation),
        ]
        .map(|(account, value)| (account, if value.is_finite() { value.max(0.0) } else { 0.0 }));
        let sum: f64 = measured.iter().map(|(_, value)| value).sum();
        // The clocks of an interval and of its parts differ a little.
        let scale = if sum > end - start { (end - start) / sum } else { 1.0 };
        let mut position = start;
        for (account, value) in measured {
            let next = (position + value * scale).min(end);
            self.push(position, next, account);
            position = next;
        }
        if end > position && step > self.step {
            self.steps.push(Steps { span: self.ledger.spans.len(), first: self.step, last: step });
        }
        self.push(position, end, Account::Productive);
        self.step = self.step.max(step);
    }

    /// Updates who is at work.
    fn take(&mut self, event: &EventKind) {
        match *event {
            EventKind::LaunchBegins => {
                self.ledger.failures += u64::from(self.is_running || self.worker == Worker::Shutdown);
                (self.is_running, self.has_launcher, self.worker) = (false, true, Worker::Launcher);
            }
            EventKind::PreflightBegins => self.worker = Worker::Preflight,
            EventKind::PreflightEnds => self.worker = Worker::Launcher,
            EventKind::AttemptBegins => self.worker = Worker::Attempt,
            EventKind::FailureFound => self.worker = Worker::Shutdown,
            EventKind::AttemptEnds { has_failed } => {
                self.ledger.failures += u64::from(has_failed);
                self.worker = if has_failed { Worker::Recovery } else { Worker::Launcher };
                self.is_running = false;
            }
            EventKind::LaunchEnds { is_preempted } => {
                self.has_launcher = false;
                self.worker = Worker::Nobody { is_preempted };
            }
            EventKind::RankBegins { world, gpus } => {
                self.ledger.failures += u64::from(self.is_running || self.worker == Worker::Shutdown);
                self.has_launcher &= !self.follows_a_kill(event);
                (self.ranks, self.gpus) = (world, gpus);
                (self.is_running, self.worker) = (true, Worker::Attempt);
            }
            EventKind::StageEnds { step: Some(step), .. } => self.resume_at(step),
            EventKind::RankEnds { is_preempted } => {
                self.is_running = false;
                self.worker = if self.has_launcher { Worker::Launcher } else { Worker::Nobody { is_preempted } };
            }
            EventKind::StageEnds { step: None, .. } | EventKind::StepsEnd { .. } | EventKind::Saved { .. } => {}
        }
    }

    /// Moves the time of the steps after `step` to the steps that are done again.
    fn resume_at(&mut self, step: u64) {
        self.step = step;
        while let Some(last) = self.steps.last().copied().filter(|steps| steps.last > step) {
            self.steps.pop();
            let span = self.ledger.spans[last.span];
            let kept = step.saturating_sub(last.first) as f64 / (last.last - last.first) as f64;
            if kept == 0.0 {
                self.ledger.spans[last.span].account = Account::Redone;
                continue;
            }
            let middle = span.start + kept * span.seconds();
            self.ledger.spans[last.span].end = middle;
            // The spans of other steps before this one keep their places.
            self.ledger.spans.insert(last.span + 1, Span { start: middle, account: Account::Redone, ..span });
            self.steps.push(Steps { last: step, ..last });
        }
    }
}

#[cfg(test)]
mod tests;
