#![allow(clippy::unwrap_used)]

use admiral_contract::{LaunchConfig, Phase};
use proptest::prelude::*;

use super::*;
use crate::job::JobKind;

/// Four ranks on two hosts.
const HOSTS: [&str; 4] = ["n0", "n0", "n1", "n1"];
const GRACE: f64 = 30.0;

fn group() -> Group {
    group_of(JobKind::Train)
}

fn group_of(kind: JobKind) -> Group {
    let timeouts = LaunchConfig { stall_seconds: 20, ..LaunchConfig::default() }.timeouts();
    let options = GroupOptions { kind, timeouts, stop_grace_seconds: GRACE, reached_before: 3 };
    Group::new(options, HOSTS.iter().enumerate().map(|(rank, host)| ((*host).to_owned(), Some(rank % 2))), 0.0)
}

fn reading(step: u64, phase: Phase) -> Reading {
    Reading { pid: 7, step, phase, collectives: step, ..Reading::default() }
}

/// Returns a group in which every rank trains, at second 1.
fn training() -> Group {
    working(JobKind::Train)
}

fn working(kind: JobKind) -> Group {
    let mut group = group_of(kind);
    let outs: Vec<Output> = (0..4).flat_map(|rank| group.handle(0.5, Event::Hello { rank })).collect();
    assert_eq!(outs, [Output::StartAll]);
    beats(&mut group, 1.0, 10, Phase::Forward);
    group
}

fn beats(group: &mut Group, now: f64, step: u64, phase: Phase) {
    for rank in 0..4 {
        let outs = group.handle(now, Event::Beat { rank, reading: reading(step, phase), state: Some('R') });
        assert_eq!(outs, []);
    }
}

fn ended(rank: usize, end: End) -> Event {
    Event::Ended { rank, end, reading: None }
}

/// Lets every agent confirm the end, and returns the group's outcome.
fn go_down(group: &mut Group, now: f64) -> Outcome {
    let outs: Vec<Output> = (0..4).flat_map(|rank| group.handle(now, Event::Gone { rank, left: 0 })).collect();
    assert_eq!(outs, [Output::LeaveAll]);
    let outs = group.handle(now, Event::MpirunEnded);
    assert_eq!(group.unverified(), [0; 0]);
    let [Output::Finished(outcome)] = outs.as_slice() else { panic!("{outs:?}") };
    assert_eq!(group.handle(now, Event::Tick), []);
    outcome.clone()
}

fn incident(outcome: Outcome) -> (Incident, String) {
    match outcome {
        Outcome::Incident { incident, sentence } => (incident, sentence),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_group_ends_well_when_all_ranks_have() {
    let mut group = training();
    for rank in 0..3 {
        assert_eq!(group.handle(2.0, ended(rank, End::Code(0))), []);
    }
    assert_eq!(group.handle(3.0, ended(3, End::Code(0))), [Output::KillAll]);
    assert_eq!(go_down(&mut group, 3.1), Outcome::AllEnded);
}

#[test]
fn a_death_ends_the_group_at_once_and_is_named() {
    let mut group = training();
    assert_eq!(group.handle(2.0, ended(2, End::Signal(9))), []);
    assert_eq!(group.handle(2.2, Event::Tick), []);
    assert_eq!(group.handle(2.31, Event::Tick), [Output::KillAll]);
    let (incident, sentence) = incident(go_down(&mut group, 2.5));
    assert_eq!((incident.rank, incident.cause, incident.hosts), (Some(2), Cause::Signal(9), vec!["n1".to_owned()]));
    assert_eq!(incident.steps_gained, 7);
    assert!(
        sentence.starts_with("rank 2 (n1, GPU 0) was killed by signal 9 (SIGKILL")
            && sentence.ends_with("in step 10, in the forward pass"),
        "{sentence}"
    );
}

#[test]
fn a_peer_that_lost_its_connection_is_not_the_cause() {
    for cause in
        [Event::Disconnected { rank: 1 }, ended(1, End::Signal(11)), ended(1, End::Code(74)), ended(1, End::Code(1))]
    {
        let mut group = training();
        group.handle(2.0, ended(0, End::Code(70)));
        group.handle(2.1, ended(3, End::Code(70)));
        group.handle(2.2, cause.clone());
        group.handle(2.21, ended(2, End::Signal(6)));
        group.handle(2.31, Event::Tick);
        let Some(Ending { outcome, .. }) = &group.ending else { panic!() };
        assert_eq!(incident(outcome.clone()).0.rank, Some(1), "{cause:?}");
    }
    // Without another cause it is a bug, and no host is to blame.
    let mut group = training();
    group.handle(2.0, ended(0, End::Code(70)));
    group.handle(2.1, ended(3, End::Code(70)));
    assert_eq!(group.handle(2.31, Event::Tick), [Output::KillAll]);
    let (incident, _) = incident(go_down(&mut group, 3.0));
    assert_eq!((incident.rank, incident.cause, incident.hosts.len()), (Some(0), Cause::Exit(70), 0));
}

#[test]
fn mpirun_is_to_blame_for_its_own_death_only() {
    let mut group = training();
    group.handle(2.0, Event::MpirunEnded);
    (0..4).for_each(|rank| assert_eq!(group.handle(2.1, Event::Disconnected { rank }), []));
    let outs = group.handle(2.4, Event::Tick);
    assert_eq!(outs[..2], [Output::KillAll, Output::LeaveAll]);
    let Output::Finished(outcome) = outs[2].clone() else { panic!("{outs:?}") };
    assert_eq!(incident(outcome).0.cause, Cause::MpirunDied);
    assert_eq!(group.unverified(), [0, 1, 2, 3]);

    let mut group = training();
    group.handle(2.0, Event::Disconnected { rank: 1 });
    group.handle(2.1, Event::MpirunEnded);
    group.handle(2.4, Event::Tick);
    let (incident, sentence) = incident(go_down_of(&mut group, &[0, 2, 3]));
    assert_eq!((incident.rank, incident.cause), (Some(1), Cause::AgentLost));
    assert!(sentence.starts_with("the agent of rank 1 (n0, GPU 1) is gone in step 10"), "{sentence}");
    assert_eq!(group.unverified(), [1]);
}

#[test]
fn a_daemons_death_blames_no_rank() {
    let mut group = training();
    group.handle(1.9, ended(0, End::Code(70)));
    group.handle(2.0, Event::DaemonGone { rank: 3 });
    group.handle(2.0, ended(3, End::Code(1)));
    group.handle(2.1, ended(2, End::Signal(15)));
    assert_eq!(group.handle(2.4, Event::Tick), [Output::KillAll]);
    let (incident, sentence) = incident(go_down(&mut group, 2.5));
    assert_eq!((incident.rank, incident.cause, incident.hosts), (None, Cause::MpirunDied, vec!["n1".to_owned()]));
    assert!(sentence.starts_with("mpirun's daemon on n1 is gone"), "{sentence}");
}

/// Lets the agents of these ranks confirm the end.
fn go_down_of(group: &mut Group, ranks: &[usize]) -> Outcome {
    let outs: Vec<Output> = ranks.iter().flat_map(|&rank| group.handle(2.5, Event::Gone { rank, left: 0 })).collect();
    match outs.last() {
        Some(Output::Finished(outcome)) => outcome.clone(),
        _ => panic!("{outs:?}"),
    }
}

#[test]
fn a_daemon_that_ends_after_its_ranks_is_no_incident() {
    let mut group = training();
    for rank in 0..3 {
        group.handle(2.0, ended(rank, End::Code(0)));
    }
    group.handle(2.0, Event::DaemonGone { rank: 0 });
    group.handle(2.1, ended(3, End::Code(0)));
    assert_eq!(go_down(&mut group, 2.2), Outcome::AllEnded);
}

#[test]
fn a_failed_start_names_the_missing_hosts() {
    let mut group = group();
    group.handle(0.5, Event::Hello { rank: 0 });
    group.handle(0.5, Event::Hello { rank: 1 });
    group.handle(1.0, Event::MpirunEnded);
    group.handle(1.5, Event::Tick);
    let Some(Ending { outcome, .. }) = group.ending else { panic!() };
    let (incident, sentence) = incident(outcome);
    assert_eq!((incident.cause, incident.hosts), (Cause::Start, vec!["n1".to_owned()]));
    assert_eq!(sentence, "mpirun ended before 2 of 4 ranks had come up");
}

#[test]
fn a_stop_reaches_all_ranks_and_ends_with_a_checkpoint() {
    let mut group = training();
    assert_eq!(group.handle(2.0, Event::StopRequested { repeated: false }), [Output::SignalAll]);
    for rank in 0..3 {
        assert_eq!(group.handle(2.5, ended(rank, End::Code(75))), []);
    }
    assert_eq!(group.handle(2.5, ended(3, End::Code(75))), [Output::KillAll]);
    assert!(matches!(go_down(&mut group, 2.6), Outcome::Stopped { code: 75, .. }));
}

#[test]
fn a_forced_stop_has_no_checkpoint() {
    let mut twice = training();
    twice.handle(2.0, Event::StopRequested { repeated: false });
    assert_eq!(twice.handle(2.1, Event::StopRequested { repeated: true }), [Output::KillAll]);
    assert!(matches!(go_down(&mut twice, 2.2), Outcome::Stopped { code: 1, .. }));

    let mut late = training();
    late.handle(2.0, Event::StopRequested { repeated: false });
    (0..56).for_each(|beat| beats(&mut late, 2.0 + f64::from(beat) / 2.0, 11, Phase::Checkpoint));
    assert_eq!(late.handle(31.9, Event::Tick), []);
    assert_eq!(late.handle(2.0 + GRACE, Event::Tick), [Output::KillAll]);
    assert!(matches!(go_down(&mut late, 33.0), Outcome::Stopped { code: 1, .. }));

    let mut early = group();
    early.handle(0.5, Event::Hello { rank: 0 });
    assert_eq!(early.handle(0.6, Event::StopRequested { repeated: false })[0], Output::KillAll);
    assert_eq!(early.handle(0.7, Event::Hello { rank: 1 }), [Output::KillAll], "who comes late is not left running");
}

#[test]
fn a_stop_before_the_first_step_loses_nothing() {
    let early = "asked to stop before its first step";
    let outcome = |group: &mut Group, now| {
        let outs: Vec<Output> = (0..4).flat_map(|rank| group.handle(now, Event::Gone { rank, left: 0 })).collect();
        assert_eq!(outs, [Output::LeaveAll]);
        match group.handle(now, Event::MpirunEnded).as_slice() {
            [Output::Finished(Outcome::Stopped { code, sentence })] => (*code, sentence.clone()),
            outs => panic!("{outs:?}"),
        }
    };
    // Ranks before their first step: the signal kills some, others lose their peers or hang.
    for others in [Some(KILLED_BY_STOP), Some(End::Code(70)), None] {
        let mut group = training();
        assert_eq!(group.handle(2.0, Event::StopRequested { repeated: false }), [Output::SignalAll]);
        let mut outs = group.handle(2.1, ended(2, KILLED_BY_STOP));
        for rank in [0, 1, 3] {
            outs.extend(others.into_iter().flat_map(|end| group.handle(2.2, ended(rank, end))));
        }
        outs.extend(group.handle(2.5, Event::Tick));
        assert_eq!(outs, [Output::KillAll], "{others:?}");
        assert_eq!(outcome(&mut group, 2.6), (75, early.to_owned()), "{others:?}");
    }
    // A wrong configuration is reported even after a stop.
    let mut group = training();
    group.handle(2.0, Event::StopRequested { repeated: false });
    group.handle(2.1, ended(2, End::Code(64)));
    group.handle(2.1, ended(1, KILLED_BY_STOP));
    assert_eq!(group.handle(2.5, Event::Tick), [Output::KillAll]);
    assert_eq!(outcome(&mut group, 2.6).0, 64);
    // After the first step, there has to be a checkpoint.
    for (checkpoint_step, code) in [(0, 1), (5, 75)] {
        let mut group = training();
        let reading = Reading { step_seconds: 0.5, checkpoint_step, ..reading(10, Phase::Forward) };
        group.handle(1.5, Event::Beat { rank: 0, reading, state: Some('R') });
        group.handle(2.0, Event::StopRequested { repeated: false });
        group.handle(2.1, ended(2, KILLED_BY_STOP));
        assert_eq!(group.handle(2.5, Event::Tick), [Output::KillAll]);
        assert_eq!(outcome(&mut group, 2.6).0, code);
    }
    // A signal from somebody else is a failure.
    let mut group = training();
    group.handle(2.0, ended(2, KILLED_BY_STOP));
    group.handle(2.5, Event::Tick);
    assert_eq!(incident(go_down(&mut group, 2.6)).0.cause, Cause::Signal(15));
}

#[test]
fn a_stopped_sampling_job_keeps_its_images() {
    let kept = (75, JobKind::Sample.stopped().to_owned());
    let outcome = |mut group: Group, now| match go_down(&mut group, now) {
        Outcome::Stopped { code, sentence } => (code, sentence),
        outcome => panic!("{outcome:?}"),
    };
    let mut all = working(JobKind::Sample);
    assert_eq!(all.handle(2.0, Event::StopRequested { repeated: false }), [Output::SignalAll]);
    (0..4).for_each(|rank| drop(all.handle(2.5, ended(rank, End::Code(75)))));
    assert_eq!(outcome(all, 2.6), kept);
    // One rank dies of the signal, and its images stay where they are.
    let mut killed = working(JobKind::Sample);
    killed.handle(2.0, Event::StopRequested { repeated: false });
    killed.handle(2.1, ended(2, KILLED_BY_STOP));
    assert_eq!(killed.handle(2.5, Event::Tick), [Output::KillAll]);
    assert_eq!(outcome(killed, 2.6), kept);
    let mut early = working(JobKind::Sample);
    beats(&mut early, 1.5, 0, Phase::Sample);
    early.handle(2.0, Event::StopRequested { repeated: false });
    early.handle(2.1, ended(2, KILLED_BY_STOP));
    early.handle(2.5, Event::Tick);
    assert_eq!(outcome(early, 2.6), (75, "asked to stop before its first image".to_owned()));
}

#[test]
fn a_sampling_job_gets_on_by_the_images_of_all_ranks() {
    let mut group = working(JobKind::Sample);
    assert_eq!(group.reached(), 40);
    group.handle(2.0, ended(2, End::Signal(9)));
    group.handle(2.5, Event::Tick);
    let (incident, sentence) = incident(go_down(&mut group, 2.6));
    assert_eq!(incident.steps_gained, 37);
    assert!(sentence.ends_with("after 10 images, in the forward pass"), "{sentence}");
}

#[test]
fn a_failure_while_stopping_leaves_no_checkpoint() {
    let mut group = training();
    group.handle(2.0, Event::StopRequested { repeated: false });
    group.handle(2.1, ended(1, End::Code(69)));
    group.handle(2.2, ended(0, End::Code(75)));
    assert_eq!(group.handle(2.5, Event::Tick), [Output::KillAll]);
    assert!(matches!(go_down(&mut group, 2.6), Outcome::Stopped { code: 69, .. }));
}

#[test]
fn a_stop_during_the_shutdown_of_a_failed_group_counts() {
    for asked_at in [2.1, 2.4] {
        let mut group = training();
        group.handle(2.0, ended(1, End::Signal(9)));
        if asked_at > 2.3 {
            assert_eq!(group.handle(2.35, Event::Tick), [Output::KillAll]);
        }
        group.handle(asked_at, Event::StopRequested { repeated: false });
        group.handle(2.5, Event::Tick);
        let Outcome::Stopped { code: 1, sentence } = go_down(&mut group, 2.6) else { panic!() };
        assert!(sentence.starts_with("asked to stop, it failed: rank 1 (n0, GPU 1) was killed"), "{sentence}");
    }
}

#[test]
fn an_unrequested_preemption_waits_for_all_ranks() {
    let mut group = training();
    assert_eq!(group.handle(2.0, ended(1, End::Code(75))), []);
    assert_eq!(group.handle(3.0, Event::Tick), [], "the others are still leaving");
    for rank in [0, 2] {
        assert_eq!(group.handle(3.0, ended(rank, End::Code(75))), []);
    }
    assert_eq!(group.handle(3.1, ended(3, End::Code(75))), [Output::KillAll]);
    assert_eq!(incident(go_down(&mut group, 3.2)).0.cause, Cause::Exit(75));

    let mut group = training();
    group.handle(2.0, ended(1, End::Code(75)));
    group.handle(2.1, ended(0, End::Code(70)));
    assert_eq!(group.handle(2.5, Event::Tick), [Output::KillAll]);
    let (incident, _) = incident(go_down(&mut group, 3.2));
    assert_eq!((incident.rank, incident.cause), (Some(1), Cause::Exit(75)), "the other lost its peer");
}

#[test]
fn a_stalled_rank_is_asked_for_its_stack_before_the_shutdown() {
    let mut group = training();
    let beat = |rank, seconds| {
        let (phase, collectives) = if rank == 3 { (Phase::Data, 40) } else { (Phase::Reduce, 41) };
        let reading = Reading { phase, collectives, bucket: 3, phase_seconds: seconds, ..reading(812, Phase::Data) };
        Event::Beat { rank, reading, state: Some('S') }
    };
    let mut outs = Vec::new();
    let mut now = 1.0;
    while outs.is_empty() {
        now += 0.5;
        (0..4).for_each(|rank| assert_eq!(group.handle(now, beat(rank, now - 1.0)), []));
        outs = group.handle(now, Event::Tick);
    }
    assert_eq!((outs, now), (vec![Output::TakeStack(3)], 21.0));
    assert_eq!(group.handle(now + 0.1, Event::Tick), []);
    assert_eq!(group.handle(now + 0.2, Event::StackTaken { rank: 3 }), [Output::KillAll]);
    let (incident, sentence) = incident(go_down(&mut group, now + 0.3));
    assert_eq!((incident.rank, incident.cause, incident.hosts), (Some(3), Cause::Stalled, vec!["n1".to_owned()]));
    let expected = "rank 3 (n1, GPU 1) never reached bucket 3 of step 812; it has been reading data for 20 s; \
                    3 ranks wait for it";
    assert_eq!(sentence, expected);
}

#[test]
fn a_rank_that_finished_early_is_mentioned_when_the_others_wait() {
    let mut group = training();
    group.handle(1.0, ended(0, End::Code(0)));
    for rank in 1..4 {
        let reading = Reading { phase_seconds: 20.0, ..reading(10, Phase::Exchange) };
        group.handle(1.5, Event::Beat { rank, reading, state: Some('S') });
    }
    assert_eq!(group.handle(1.6, Event::Tick), [Output::KillAll]);
    let (incident, sentence) = incident(go_down(&mut group, 2.0));
    assert_eq!((incident.cause, incident.rank), (Cause::Stalled, None));
    assert!(sentence.ends_with("to blame; or it is that 1 rank finished before them"), "{sentence}");
}

#[test]
fn the_shutdown_does_not_wait_for_a_lost_host() {
    let mut group = training();
    let mut outs = Vec::new();
    let mut now = 1.0;
    while outs.is_empty() {
        now += 0.5;
        (0..2).for_each(|rank| assert_eq!(group.handle(now, Event::Alive { rank }), []));
        outs = group.handle(now, Event::Tick);
    }
    assert_eq!(outs, [Output::KillAll]);
    assert_eq!(group.handle(now + 0.1, Event::Gone { rank: 0, left: 0 }), []);
    assert_eq!(group.handle(now + 0.1, Event::Gone { rank: 1, left: 0 }), [Output::LeaveAll]);
    assert_eq!(group.handle(now + 1.2, Event::Tick), [Output::KillMpirun]);
    let outs = group.handle(now + 1.3, Event::MpirunEnded);
    let [Output::Finished(outcome)] = outs.as_slice() else { panic!("{outs:?}") };
    let (incident, sentence) = incident(outcome.clone());
    assert_eq!((incident.cause, incident.hosts), (Cause::HostLost, vec!["n1".to_owned()]));
    assert!(sentence.starts_with("nothing is heard of host n1 for"), "{sentence}");
    assert_eq!(group.unverified(), [2, 3]);
}

#[test]
fn a_rank_that_cannot_be_ended_is_left_after_a_timeout() {
    let mut group = training();
    group.handle(2.0, ended(2, End::Signal(9)));
    let mut all = Vec::new();
    for tick in 0..40 {
        let now = 2.5 + f64::from(tick) / 2.0;
        (0..3).for_each(|rank| all.extend(group.handle(now, Event::Gone { rank, left: 0 })));
        all.extend(group.handle(now, Event::Alive { rank: 3 }));
        all.extend(group.handle(now, Event::Gone { rank: 3, left: 1 }));
        all.extend(group.handle(now, Event::Tick));
    }
    assert_eq!(all[..3], [Output::KillAll, Output::LeaveAll, Output::KillMpirun]);
    assert!(matches!(all[3], Output::Finished(_)) && all.len() == 4, "{all:?}");
    assert_eq!(group.unverified(), [3]);
}

#[test]
fn a_scheduling_gap_of_the_launcher_blames_nobody() {
    let mut group = training();
    assert_eq!(group.handle(500.0, Event::Tick), []);
    beats(&mut group, 500.1, 11, Phase::Forward);
    assert_eq!(group.handle(500.5, Event::Tick), []);
}

fn finished(out: &Output) -> Option<&Outcome> {
    match out {
        Output::Finished(outcome) => Some(outcome),
        _ => None,
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let rank = 0..5usize;
    let end = prop_oneof![
        4 => Just(End::Code(0)),
        2 => Just(End::Code(75)),
        1 => prop_oneof![Just(1), Just(64), Just(69), Just(70), Just(74)].prop_map(End::Code),
        1 => (1..20).prop_map(End::Signal),
        1 => Just(End::NotStarted),
    ];
    let phase = prop_oneof![
        Just(Phase::Start),
        Just(Phase::Data),
        Just(Phase::Reduce),
        Just(Phase::Exchange),
        Just(Phase::Checkpoint),
        Just(Phase::End)
    ];
    let beat = (rank.clone(), phase, 0..20u64, 0.0..70.0f64, proptest::option::of(prop_oneof!["[RSDTZ]"]));
    prop_oneof![
        4 => rank.clone().prop_map(|rank| Event::Hello { rank }),
        1 => rank.clone().prop_map(|rank| Event::DaemonGone { rank }),
        1 => rank.clone().prop_map(|rank| Event::Alive { rank }),
        4 => beat.prop_map(|(rank, phase, step, phase_seconds, state)| Event::Beat {
            rank,
            reading: Reading { phase_seconds, ..reading(step, phase) },
            state: state.and_then(|state| state.chars().next()),
        }),
        4 => (rank.clone(), end).prop_map(|(rank, end)| ended(rank, end)),
        1 => rank.clone().prop_map(|rank| Event::StackTaken { rank }),
        1 => rank.clone().prop_map(|rank| Event::Disconnected { rank }),
        2 => (rank, 0..2usize).prop_map(|(rank, left)| Event::Gone { rank, left }),
        1 => Just(Event::MpirunEnded),
        1 => any::<bool>().prop_map(|repeated| Event::StopRequested { repeated }),
        4 => Just(Event::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_group_finishes_exactly_once(
        here in any::<bool>(),
        events in proptest::collection::vec((any_event(), 0.0..1.5f64), 0..60),
    ) {
        let mut group = group();
        let mut now = 0.0;
        let mut ends = [None; 4];
        let mut outs = Vec::new();
        let mut asked = false;
        if here {
            outs.extend((0..4).flat_map(|rank| group.handle(0.0, Event::Hello { rank })));
        }
        for (event, later) in events {
            now += later;
            if let Event::Ended { rank, end, .. } = event && rank < 4 && !group.is_ending() {
                ends[rank].get_or_insert(end);
            }
            asked |= matches!(event, Event::StopRequested { .. })
                && !outs.iter().any(|out| matches!(out, Output::Finished(_)));
            outs.extend(group.handle(now, event));
        }
        for _ in 0..400 {
            now += 0.5;
            outs.extend(group.handle(now, Event::Tick));
        }
        let finished: Vec<&Outcome> = outs.iter().filter_map(finished).collect();
        prop_assert_eq!(finished.len(), 1);
        prop_assert!(matches!(outs.last(), Some(Output::Finished(_))));
        for once in [Output::StartAll, Output::LeaveAll, Output::KillMpirun] {
            prop_assert!(outs.iter().filter(|&out| *out == once).count() <= 1);
        }
        let place = |wanted: &Output| outs.iter().position(|out| out == wanted);
        prop_assert!(place(&Output::KillAll) < place(&Output::LeaveAll) && place(&Output::KillAll).is_some());
        let all = |code| ends.iter().all(|end| *end == Some(End::Code(code)));
        match finished[0] {
            Outcome::AllEnded => prop_assert!(all(0), "{ends:?}"),
            Outcome::Stopped { code, sentence } => {
                prop_assert!(asked && *code != 0);
                // A rank that exits with 75 has written a checkpoint, but the others may have lost it as a peer. No
                // step is done here.
                let is_early = sentence == "asked to stop before its first step";
                prop_assert!(*code != 75 || is_early || ends.contains(&Some(End::Code(75))), "{ends:?}");
            }
            Outcome::Incident { incident, sentence } => {
                prop_assert!(!asked && !all(0) && !sentence.is_empty());
                if let (Cause::Exit(_) | Cause::Signal(_), Some(rank)) = (incident.cause, incident.rank) {
                    prop_assert_eq!(ends[rank].map(End::cause), Some(incident.cause));
                }
            }
        }
    }

    #[test]
    fn a_rank_that_fails_alone_is_named(
        rank in 0..4usize,
        end in prop_oneof![Just(End::Signal(9)), Just(End::Code(1)), Just(End::Code(74)), Just(End::Code(69))],
        followers in proptest::collection::vec((0..4usize, 0.0..0.29f64), 0..6),
        before in any::<bool>(),
    ) {
        let mut group = training();
        if before && let Some((other, _)) = followers.first().filter(|(other, _)| *other != rank) {
            group.handle(1.9, ended(*other, End::Code(70)));
        }
        group.handle(2.0, ended(rank, end));
        let mut followers: Vec<(usize, f64)> = followers.into_iter().filter(|(other, _)| *other != rank).collect();
        followers.sort_by(|a, b| a.1.total_cmp(&b.1));
        for (other, after) in followers {
            group.handle(2.0 + after, ended(other, End::Code(70)));
        }
        group.handle(2.3, Event::Tick);
        let Some(Ending { outcome, .. }) = &group.ending else { panic!() };
        let (incident, _) = incident(outcome.clone());
        prop_assert_eq!((incident.rank, incident.cause), (Some(rank), end.cause()));
    }
}
