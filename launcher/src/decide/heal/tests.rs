use admiral_contract::BatchDivision;
use proptest::prelude::*;

use super::*;

fn hosts(count: usize, slots: usize) -> Vec<Host> {
    (0..count).map(|host| Host { name: format!("n{host}"), slots, slots_given: true }).collect()
}

/// Two of four hosts are needed; the others are spares.
fn situation<'a>(hosts: &'a [Host], left_out: &'a [String], history: &'a [Incident]) -> Situation<'a> {
    Situation {
        hosts,
        left_out,
        world_wanted: 8,
        work: Work::Train { global_batch: 64, microbatch: 4 },
        min_world: 1,
        history,
        max_restarts: 10,
        window_seconds: 3600.0,
        base_delay_seconds: 1.0,
        restart_on_preemption: false,
    }
}

fn incident(at_seconds: f64, rank: usize, host: &str, cause: Cause, steps_gained: u64) -> Incident {
    let hosts = if host.is_empty() { Vec::new() } else { vec![host.to_owned()] };
    Incident { at_seconds, rank: Some(rank), hosts, cause, steps_gained }
}

struct Restart {
    delay: f64,
    hosts: Vec<String>,
    world: usize,
    left_out: Vec<String>,
    note: String,
}

fn restart(action: Action) -> Restart {
    match action {
        Action::Restart { delay_seconds, hosts, world, left_out, note } => Restart {
            delay: delay_seconds,
            hosts: hosts.into_iter().map(|host| host.name).collect(),
            world,
            left_out: left_out.into_iter().map(|(host, _)| host).collect(),
            note: note.unwrap_or_default(),
        },
        Action::Stop { code, reason } => panic!("{code}: {reason}"),
    }
}

fn stop(action: Action) -> (u8, String) {
    match action {
        Action::Stop { code, reason } => (code, reason),
        Action::Restart { .. } => panic!("{action:?}"),
    }
}

#[test]
fn final_exit_codes_stop_the_run() {
    let hosts = hosts(3, 4);
    for code in [0, 64, 65, 70, 75] {
        let action = decide(&incident(1.0, 3, "", Cause::Exit(code), 5), &situation(&hosts, &[], &[]));
        assert_eq!(stop(action).0, code);
    }
    let usage = decide(&incident(1.0, 3, "", Cause::Exit(2), 0), &situation(&hosts, &[], &[]));
    let (code, reason) = stop(usage);
    assert_eq!(code, 64, "a command line that is wrong stays wrong");
    assert!(reason.contains("of one build"), "{reason}");
    // The options of a sampling job are the user's.
    let job = Situation { work: Work::Sample, ..situation(&hosts, &[], &[]) };
    let (code, reason) = stop(decide(&incident(1.0, 3, "", Cause::Exit(2), 0), &job));
    assert_eq!((code, reason.contains("these options")), (64, true), "{reason}");
    let willing = Situation { restart_on_preemption: true, ..situation(&hosts, &[], &[]) };
    assert_eq!(restart(decide(&incident(1.0, 3, "", Cause::Exit(75), 5), &willing)).world, 8);
}

#[test]
fn delays_grow_until_there_is_progress() {
    let hosts = hosts(2, 4);
    let mut history = Vec::new();
    let mut delays = Vec::new();
    for (place, gained) in [0, 0, 0, 5, 0, 7].into_iter().enumerate() {
        // Each incident has another rank, because repeated failures of one rank end the launch.
        let now = incident(place as f64, place, "", Cause::Signal(11), gained);
        delays.push(restart(decide(&now, &situation(&hosts, &[], &history))).delay);
        history.push(now);
    }
    assert_eq!(delays, [1.0, 2.0, 4.0, 1.0, 2.0, 1.0]);
}

#[test]
fn store_errors_have_longer_delays() {
    let hosts = hosts(2, 4);
    let mut history = Vec::new();
    let mut delays = Vec::new();
    for place in 0..7 {
        let now = incident(f64::from(place) * 100.0, 0, "", Cause::Exit(69), 0);
        let short = Situation { base_delay_seconds: 0.1, ..situation(&hosts, &[], &history) };
        delays.push((restart(decide(&now, &short)).delay * 10.0).round());
        history.push(now);
    }
    assert_eq!(delays, [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]);
}

#[test]
fn repeated_crashes_of_one_rank_are_given_up() {
    let hosts = hosts(4, 4);
    let crash = |at, rank, gained| incident(at, rank, "n0", Cause::Signal(11), gained);
    let history = [crash(0.0, 3, 100), crash(10.0, 3, 0)];
    let (code, reason) = stop(decide(&crash(20.0, 3, 0), &situation(&hosts, &["n0".into()], &history)));
    assert_eq!(code, 1);
    assert!(reason.starts_with("rank 3 failed 3 times in the same way"), "{reason}");
    restart(decide(&crash(20.0, 3, 1), &situation(&hosts, &[], &history)));
    restart(decide(&crash(20.0, 4, 0), &situation(&hosts, &[], &history)));
    restart(decide(&crash(20.0, 3, 0), &situation(&hosts, &[], &history[1..])));
}

#[test]
fn restarts_are_limited_within_a_window() {
    let hosts = hosts(2, 4);
    let history: Vec<Incident> =
        (0..3).map(|place| incident(f64::from(place) * 100.0, 0, "", Cause::Stalled, 9)).collect();
    let few = |now| {
        let limited = Situation { max_restarts: 3, window_seconds: 1000.0, ..situation(&hosts, &[], &history) };
        decide(&incident(now, 0, "", Cause::Exit(69), 9), &limited)
    };
    let (code, reason) = stop(few(900.0));
    assert_eq!(code, 69);
    assert_eq!(reason, "3 restarts within 1000 s is all that max_restarts allows");
    restart(few(1001.0));
    let none = Situation { max_restarts: 0, ..situation(&hosts, &[], &[]) };
    assert_eq!(stop(decide(&incident(1.0, 0, "", Cause::Signal(9), 9), &none)).0, 1);
}

#[test]
fn a_bad_host_is_replaced_by_a_spare_at_once() {
    let hosts = hosts(3, 4);
    for cause in [Cause::Exit(74), Cause::HostLost] {
        let next = restart(decide(&incident(1.0, 1, "n0", cause, 5), &situation(&hosts, &[], &[])));
        assert_eq!((next.delay, next.world, next.left_out), (0.0, 8, vec!["n0".to_owned()]));
        assert_eq!(next.hosts, ["n1", "n2"]);
        assert!(next.note.contains("n0 is left out: ") && next.note.contains("the spare host n2"), "{}", next.note);
    }
}

#[test]
fn without_spares_fewer_ranks_share_the_same_batch() {
    let hosts = hosts(2, 4);
    let lost = incident(1.0, 1, "n1", Cause::HostLost, 5);
    let next = restart(decide(&lost, &situation(&hosts, &[], &[])));
    assert_eq!((next.world, next.hosts), (4, vec!["n0".to_owned()]));
    assert!(next.note.contains("goes on with 4 of 8 ranks, the same global batch of 64"), "{}", next.note);
    let least = Situation { min_world: 5, ..situation(&hosts, &[], &[]) };
    let (code, reason) = stop(decide(&lost, &least));
    assert_eq!(code, 74);
    let expected = "n1 is left out: nothing was heard of it any more; the hosts left have room for 4 ranks; with a \
                    global batch of 64 and at least 5 ranks the run could go on with these numbers of ranks: 8";
    assert_eq!(reason, expected);
}

#[test]
fn a_host_that_fails_twice_is_left_out_unless_there_is_no_other() {
    let history = [incident(1.0, 1, "n1", Cause::Signal(9), 5)];
    let repeated = |at| incident(at, 5, "n1", Cause::Stalled, 5);
    let three = hosts(3, 4);
    let next = restart(decide(&repeated(2.0), &situation(&three, &[], &history)));
    assert_eq!((next.hosts, next.left_out), (vec!["n0".to_owned(), "n2".to_owned()], vec!["n1".to_owned()]));
    let next = restart(decide(&repeated(5000.0), &situation(&three, &[], &history)));
    assert_eq!(next.left_out, [""; 0], "it was too long ago");
    let left_out = ["n0".to_owned(), "n2".to_owned()];
    let next = restart(decide(&repeated(2.0), &situation(&three, &left_out, &history)));
    assert_eq!((next.hosts, next.world), (vec!["n1".to_owned()], 4));
    assert!(next.note.contains("n1 is kept although it failed 2 times within 3600 s"), "{}", next.note);
}

#[test]
fn suspected_hosts_come_back_before_the_run_is_given_up() {
    let hosts = hosts(4, 4);
    let crash = |at, rank, host| incident(at, rank, host, Cause::Signal(9), 5);
    let history = [crash(1.0, 0, "n0"), crash(2.0, 0, "n0"), crash(3.0, 5, "n1"), crash(4.0, 5, "n1")];
    let left_out = ["n0".to_owned(), "n1".to_owned()];
    let all = Situation { min_world: 8, ..situation(&hosts, &left_out, &history) };
    let after = restart(decide(&incident(9.0, 7, "n3", Cause::HostLost, 5), &all));
    assert_eq!((after.hosts, after.world), (vec!["n2".to_owned(), "n0".to_owned()], 8));
    assert!(after.note.contains("n0 is kept although it was left out"), "{}", after.note);
    // If fewer ranks are allowed, the run continues with those.
    let fewer = Situation { min_world: 1, ..all.clone() };
    assert_eq!(restart(decide(&incident(9.0, 7, "n3", Cause::HostLost, 5), &fewer)).hosts, ["n2"]);
    // A lost host does not come back.
    let lost = [crash(1.0, 0, "n0"), crash(2.0, 0, "n0"), incident(3.0, 5, "n1", Cause::HostLost, 5)];
    let two = Situation { min_world: 16, world_wanted: 16, history: &lost, ..all };
    assert_eq!(stop(decide(&incident(9.0, 7, "n3", Cause::HostLost, 5), &two)).0, 74);
}

fn any_cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        prop_oneof![Just(1), Just(64), Just(69), Just(74), Just(75), Just(134)].prop_map(Cause::Exit),
        Just(Cause::Signal(9)),
        Just(Cause::Stalled),
        Just(Cause::HostLost),
        Just(Cause::AgentLost),
        Just(Cause::MpirunDied),
        Just(Cause::Start),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Simulates a launch, incident by incident: it ends, and all its groups are valid.
    #[test]
    fn every_launch_ends_and_every_group_is_valid(
        slots in proptest::collection::vec(0..9usize, 1..9),
        wanted in 1..40usize,
        batch in 1..300u64,
        microbatch in 1..10u64,
        min_world in 0..10usize,
        max_restarts in 0..12u64,
        incidents in proptest::collection::vec((any_cause(), 0..9usize, 0..3u64, 0.0..500.0f64), 60),
    ) {
        let given: Vec<Host> = slots.iter().enumerate()
            .map(|(host, &slots)| Host { name: format!("n{host}"), slots, slots_given: true }).collect();
        let (mut left_out, mut history): (Vec<String>, Vec<Incident>) = (Vec::new(), Vec::new());
        let mut now = 0.0;
        for (cause, blamed, gained, later) in incidents {
            now += later;
            let incident = incident(now, blamed, &format!("n{blamed}"), cause, gained);
            let situation = Situation {
                world_wanted: wanted, work: Work::Train { global_batch: batch, microbatch }, min_world, max_restarts,
                ..situation(&given, &left_out, &history)
            };
            match decide(&incident, &situation) {
                Action::Stop { reason, .. } => {
                    prop_assert!(!reason.is_empty());
                    break;
                }
                Action::Restart { delay_seconds, hosts, world, left_out: new, note } => {
                    prop_assert!((0.0..=600.0).contains(&delay_seconds));
                    prop_assert!(BatchDivision::new(batch, microbatch, world as u64).is_ok() && world <= wanted && world >= min_world.max(1));
                    let keeps = note.as_ref().is_some_and(|note| note.contains("is kept"));
                    prop_assert_eq!(note.is_some(), !new.is_empty() || world < wanted || keeps);
                    left_out.extend(new.into_iter().map(|(host, _)| host));
                    let is_bad = |name: &String| {
                        history.iter().chain([&incident]).any(|incident| {
                            let is_grave = matches!(incident.cause, Cause::HostLost | Cause::Exit(74));
                            is_grave && incident.hosts.contains(name)
                        })
                    };
                    let may_come = |name: &String| !left_out.contains(name) || keeps && !is_bad(name);
                    prop_assert!(hosts.iter().all(|host| given.contains(host) && may_come(&host.name)));
                    let room: usize = hosts.iter().map(|host| host.slots).sum();
                    let last = hosts.last().map_or(0, |host| host.slots);
                    prop_assert!(room >= world && room - last < world, "no host too many");
                    let names: BTreeSet<&String> = left_out.iter().collect();
                    prop_assert_eq!(names.len(), left_out.len(), "left out once");
                    now += delay_seconds;
                }
            }
            history.push(incident);
            let since = now - 3600.0;
            let recent = history.iter().filter(|incident| incident.at_seconds > since).count() as u64;
            prop_assert!(recent <= max_restarts);
        }
    }
}

#[test]
fn a_run_that_did_a_step_resumes_from_its_newest_checkpoint() {
    assert_eq!(next_resume("1200".to_owned(), false), "1200");
    assert_eq!(next_resume("1200".to_owned(), true), "auto");
}

#[test]
fn a_sampling_job_continues_with_any_number_of_ranks() {
    let (hosts, history) = (hosts(3, 3), vec![]);
    let sample = Situation { work: Work::Sample, world_wanted: 9, ..situation(&hosts, &[], &history) };
    let lost = incident(10.0, 3, "n1", Cause::HostLost, 5);
    let next = restart(decide(&lost, &sample));
    assert_eq!((next.world, next.hosts, next.left_out), (6, vec!["n0".into(), "n2".into()], vec!["n1".into()]));
    assert!(next.note.ends_with("goes on with 6 of 9 ranks, each with a larger share of the images"), "{}", next.note);
    let (code, reason) = stop(decide(&lost, &Situation { min_world: 7, ..sample.clone() }));
    assert_eq!(code, 74);
    assert!(reason.ends_with("the hosts left have room for 6 ranks; the run needs at least 7 ranks"), "{reason}");
}

#[test]
fn final_codes_of_a_sampling_job_do_not_speak_of_training() {
    let hosts = hosts(2, 4);
    for code in [64, 65, 70, 75] {
        let sample = Situation { work: Work::Sample, ..situation(&hosts, &[], &[]) };
        let (stopped, reason) = stop(decide(&incident(1.0, 0, "n0", Cause::Exit(code), 1), &sample));
        assert_eq!(stopped, code);
        for word in ["training", "step", "checkpoint", "configuration"] {
            assert!(!reason.contains(word), "{reason}");
        }
    }
}
