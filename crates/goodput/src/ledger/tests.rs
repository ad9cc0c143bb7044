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
        // A rank is killed between 50 and 57.
        event(57.0, EventKind::FailureFound),
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
        (Account::StragglerWait, 0.0),
        (Account::Exchange, 0.0),
        (Account::Checkpoint, 1.0 + 1.0),
        (Account::Sampling, 0.0),
        (Account::Evaluation, 0.0),
        (Account::FailureDetection, 7.0),
        (Account::FailureShutdown, 3.0),
        (Account::FailureRestart, 3.0),
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
    let sums = ledger.wall_clock();
    let found = [Account::FailureDetection, Account::FailureShutdown, Account::FailureRestart].map(|one| sums[one]);
    assert_eq!((ledger.failures, found), (2, [4.0 + 1.0, 0.0, 4.0]));
}

#[test]
fn the_parts_of_an_interval_of_steps_are_apart() {
    let seconds =
        IntervalSeconds { data: 1.0, straggler: 2.0, exchange: 3.0, checkpoint: 4.0, sampling: 5.0, evaluation: 6.0 };
    let events = [
        event(0.0, EventKind::RankBegins { world: 2, gpus: 0 }),
        event(100.0, EventKind::StepsEnd { step: 9, seconds }),
    ];
    let sums = Ledger::of(&events).wall_clock();
    let found = [
        Account::DataWait,
        Account::StragglerWait,
        Account::Exchange,
        Account::Checkpoint,
        Account::Sampling,
        Account::Evaluation,
        Account::Productive,
    ];
    assert_eq!(found.map(|account| sums[account]), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 79.0]);
}

#[test]
fn the_time_after_a_killed_launcher_is_down_whatever_it_did() {
    let killed = |before: &[EventKind], next: EventKind| {
        let begins = before.iter().cloned().enumerate().map(|(time, kind)| event(time as f64, kind));
        let last = before.len() as f64 - 1.0;
        let events: Vec<Event> = begins.chain([event(last + 100.0, next)]).collect();
        let ledger = Ledger::of(&events);
        (ledger.wall_clock()[Account::Down], ledger.failures)
    };
    let launch = EventKind::LaunchBegins;
    let failed = [EventKind::AttemptBegins, EventKind::FailureFound, EventKind::AttemptEnds { has_failed: true }];
    let before = |kinds: &[EventKind]| [std::slice::from_ref(&launch), kinds].concat();
    let rank = EventKind::RankBegins { world: 1, gpus: 0 };
    for next in [launch.clone(), rank.clone()] {
        assert_eq!(killed(&before(&[]), next.clone()), (100.0, 0));
        assert_eq!(killed(&before(&[EventKind::PreflightBegins]), next.clone()), (100.0, 0));
        assert_eq!(killed(&before(&failed[..2]), next.clone()), (100.0, 1), "it was ending an attempt");
        assert_eq!(killed(&before(&failed), next.clone()), (100.0, 1), "it was about to make another attempt");
        assert_eq!(killed(&before(&[EventKind::AttemptBegins, rank.clone()]), next), (100.0, 1));
    }
}

#[test]
fn a_preflight_that_refuses_the_hosts_is_a_preflight() {
    let events = [
        event(0.0, EventKind::LaunchBegins),
        event(1.0, EventKind::PreflightBegins),
        event(9.0, EventKind::LaunchEnds { is_preempted: false }),
    ];
    assert_eq!(Ledger::of(&events).wall_clock()[Account::Preflight], 8.0);
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
    let any_stage = prop_oneof![Just(Stage::Data), Just(Stage::Program), Just(Stage::Restore), Just(Stage::FirstStep)];
    let seconds = (0.0..50.0, 0.0..5.0, 0.0..5.0, -1.0..5.0, 0.0..5.0, 0.0..5.0);
    let seconds = seconds.prop_map(|(data, straggler, exchange, checkpoint, sampling, evaluation)| IntervalSeconds {
        data,
        straggler,
        exchange,
        checkpoint,
        sampling,
        evaluation,
    });
    prop_oneof![
        Just(EventKind::LaunchBegins),
        Just(EventKind::PreflightBegins),
        Just(EventKind::PreflightEnds),
        Just(EventKind::AttemptBegins),
        Just(EventKind::FailureFound),
        any::<bool>().prop_map(|has_failed| EventKind::AttemptEnds { has_failed }),
        any::<bool>().prop_map(|is_preempted| EventKind::LaunchEnds { is_preempted }),
        (1_u64..9, 0_u64..9).prop_map(|(world, gpus)| EventKind::RankBegins { world, gpus }),
        (any_stage, proptest::option::of(0_u64..60)).prop_map(|(stage, step)| EventKind::StageEnds { stage, step }),
        (0_u64..60, seconds).prop_map(|(step, seconds)| EventKind::StepsEnd { step, seconds }),
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
