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
    /// The launcher, after a failure.
    Recovery,
    /// The launcher and perhaps the ranks of an attempt.
    Attempt,
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
            Worker::Recovery => Account::Failure,
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
            EventKind::AttemptEnds { has_failed: true } => self.push(start, end, Account::Failure),
            // The last attempt was killed. A live launcher would have recorded its end before this event.
            EventKind::LaunchBegins | EventKind::RankBegins { .. } if self.is_running => {
                self.push(start, end, Account::Down);
            }
            _ => self.push(start, end, between),
        }
    }

    /// Charges an interval of steps. What was measured goes to its account, the rest are steps.
    fn charge_steps(&mut self, start: f64, end: f64, step: u64, seconds: IntervalSeconds) {
        let measured = [
            (Account::DataWait, seconds.data),
            (Account::ExchangeWait, seconds.exchange),
            (Account::Checkpoint, seconds.checkpoint),
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
                self.ledger.failures += u64::from(self.is_running);
                (self.is_running, self.has_launcher, self.worker) = (false, true, Worker::Launcher);
            }
            EventKind::AttemptBegins => self.worker = Worker::Attempt,
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
                self.ledger.failures += u64::from(self.is_running);
                self.has_launcher &= !self.is_running;
                (self.ranks, self.gpus) = (world, gpus);
                (self.is_running, self.worker) = (true, Worker::Attempt);
            }
            EventKind::StageEnds { step: Some(step), .. } => self.resume_at(step),
            EventKind::RankEnds { is_preempted } => {
                self.is_running = false;
                self.worker = if self.has_launcher { Worker::Launcher } else { Worker::Nobody { is_preempted } };
            }
            EventKind::PreflightBegins
            | EventKind::PreflightEnds
            | EventKind::StageEnds { step: None, .. }
            | EventKind::StepsEnd { .. }
            | EventKind::Saved { .. } => {}
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn event(time: f64, kind: EventKind) -> Event {
        Event { time, kind }
    }

    fn steps(time: f64, step: u64, data: f64, checkpoint: f64) -> Event {
        event(time, EventKind::StepsEnd { step, seconds: IntervalSeconds { data, checkpoint, ..Default::default() } })
    }

    fn stage(time: f64, stage: Stage, step: Option<u64>) -> Event {
        event(time, EventKind::StageEnds { stage, step })
    }

    /// A launch whose first attempt fails after step 30, with a checkpoint of step 20.
    fn with_a_failure() -> Vec<Event> {
        vec![
            event(0.0, EventKind::LaunchBegins),
            event(1.0, EventKind::PreflightBegins),
            event(4.0, EventKind::PreflightEnds),
            event(5.0, EventKind::AttemptBegins),
            event(7.0, EventKind::RankBegins { world: 4, gpus: 4 }),
            stage(10.0, Stage::Data, None),
            stage(12.0, Stage::Program, None),
            stage(13.0, Stage::Restore, Some(0)),
            stage(20.0, Stage::FirstStep, None),
            steps(30.0, 10, 2.0, 0.0),
            steps(40.0, 20, 0.0, 1.0),
            event(41.0, EventKind::Saved { step: 20 }),
            steps(50.0, 30, 0.0, 0.0),
            // A rank is killed between 50 and 60.
            event(60.0, EventKind::AttemptEnds { has_failed: true }),
            event(63.0, EventKind::AttemptBegins),
            event(65.0, EventKind::RankBegins { world: 2, gpus: 2 }),
            stage(66.0, Stage::Data, None),
            stage(67.0, Stage::Program, None),
            stage(69.0, Stage::Restore, Some(20)),
            stage(70.0, Stage::FirstStep, None),
            steps(90.0, 40, 0.0, 0.0),
            event(91.0, EventKind::RankEnds { is_preempted: true }),
            event(92.0, EventKind::AttemptEnds { has_failed: false }),
            event(93.0, EventKind::LaunchEnds { is_preempted: true }),
            event(193.0, EventKind::LaunchBegins),
        ]
    }

    #[test]
    fn each_second_of_a_run_with_a_failure_is_in_the_account_that_a_reader_expects() {
        let ledger = Ledger::of(&with_a_failure());
        let sums = ledger.wall_clock();
        let expected = [
            // 8 and 9 s of the first attempt, 20 s of the second.
            (Account::Productive, 8.0 + 9.0 + 20.0),
            (Account::Redone, 10.0),
            // 1 before and 1 after the preflight, 2 and 2 of the first attempt; 2 and 1 of the second; 1 and 1 at the end.
            (Account::StartProgram, 1.0 + 1.0 + 2.0 + 2.0 + 2.0 + 1.0 + 1.0 + 1.0),
            (Account::StartData, 3.0 + 1.0),
            (Account::StartRestore, 1.0 + 2.0),
            (Account::StartWarmUp, 7.0 + 1.0),
            (Account::DataWait, 2.0),
            (Account::ExchangeWait, 0.0),
            (Account::Checkpoint, 1.0 + 1.0),
            (Account::Evaluation, 0.0),
            (Account::Failure, 10.0 + 3.0),
            (Account::Preflight, 3.0),
            (Account::Down, 0.0),
            (Account::Preempted, 100.0),
        ];
        assert_eq!(sums.iter().collect::<Vec<_>>(), expected);
        assert_eq!((ledger.failures, ledger.saves, ledger.step), (1, 1, 40));
        let redone = ledger.spans.iter().find(|span| span.account == Account::Redone).unwrap();
        assert_eq!((redone.start, redone.end, redone.ranks), (40.0, 50.0, 4));
    }

    #[test]
    fn an_attempt_that_fails_before_its_first_rank_records_anything_is_a_failure() {
        let events = [
            event(0.0, EventKind::LaunchBegins),
            event(1.0, EventKind::AttemptBegins),
            event(5.0, EventKind::AttemptEnds { has_failed: true }),
            event(9.0, EventKind::AttemptBegins),
            event(10.0, EventKind::AttemptEnds { has_failed: true }),
        ];
        let ledger = Ledger::of(&events);
        assert_eq!((ledger.failures, ledger.wall_clock()[Account::Failure]), (2, 9.0));
    }

    #[test]
    fn an_interval_is_divided_if_only_a_part_of_its_steps_is_done_again() {
        let events = [
            event(0.0, EventKind::RankBegins { world: 1, gpus: 0 }),
            stage(0.0, Stage::Restore, Some(0)),
            steps(100.0, 10, 0.0, 0.0),
            // Without a launcher, nobody ran it in between.
            event(150.0, EventKind::RankBegins { world: 1, gpus: 0 }),
            stage(150.0, Stage::Restore, Some(7)),
            steps(180.0, 10, 0.0, 0.0),
        ];
        let sums = Ledger::of(&events).wall_clock();
        let found = [Account::Productive, Account::Redone, Account::Down].map(|account| sums[account]);
        assert_eq!(found, [70.0 + 30.0, 30.0, 50.0]);
    }

    fn any_event() -> impl Strategy<Value = EventKind> {
        let any_stage =
            prop_oneof![Just(Stage::Data), Just(Stage::Program), Just(Stage::Restore), Just(Stage::FirstStep)];
        let seconds = (0.0..50.0, 0.0..5.0, -1.0..5.0, 0.0..5.0);
        prop_oneof![
            Just(EventKind::LaunchBegins),
            Just(EventKind::PreflightBegins),
            Just(EventKind::PreflightEnds),
            Just(EventKind::AttemptBegins),
            any::<bool>().prop_map(|has_failed| EventKind::AttemptEnds { has_failed }),
            any::<bool>().prop_map(|is_preempted| EventKind::LaunchEnds { is_preempted }),
            (1_u64..9, 0_u64..9).prop_map(|(world, gpus)| EventKind::RankBegins { world, gpus }),
            (any_stage, proptest::option::of(0_u64..60)).prop_map(|(stage, step)| EventKind::StageEnds { stage, step }),
            (0_u64..60, seconds).prop_map(|(step, (data, exchange, checkpoint, evaluation))| EventKind::StepsEnd {
                step,
                seconds: IntervalSeconds { data, exchange, checkpoint, evaluation }
            }),
            (0_u64..60).prop_map(|step| EventKind::Saved { step }),
            any::<bool>().prop_map(|is_preempted| EventKind::RankEnds { is_preempted }),
        ]
    }

    proptest! {
        /// Whatever the events are, the spans cover all time between the first and the last of them, once.
        #[test]
        fn the_accounts_add_up_to_the_wall_clock(events in proptest::collection::vec((0.0..20.0, any_event()), 1..60)) {
            let mut time = 1.6e9;
            let events: Vec<Event> = events
                .into_iter()
                .map(|(wait, kind)| {
                    time += wait;
                    Event { time, kind }
                })
                .collect();
            let counted: Vec<&Event> =
                events.iter().filter(|event| !matches!(event.kind, EventKind::Saved { .. })).collect();
            let ledger = Ledger::of(&events);
            let wall_clock = counted.last().map_or(0.0, |last| last.time - counted[0].time);
            prop_assert!((ledger.wall_clock().total() - wall_clock).abs() < 1e-3);
            for pair in ledger.spans.windows(2) {
                prop_assert!((pair[0].end - pair[1].start).abs() < 1e-6, "{pair:?}");
            }
        }
    }
}
