//! Simulates 512 ranks on 64 hosts: with a simulated clock, ranks that go through their steps, and faults of every
//! kind. The code under test is the launcher's own: [`Group`] leads each group, and [`decide`] answers each incident.

#![allow(clippy::unwrap_used)]

mod random;
mod ranks;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use admiral_contract::{BatchDivision, LaunchConfig, Phase};
use admiral_launch::decide::{
    Action, Cause, End, Event, Group, GroupOptions, Incident, Outcome, Output, Situation, decide, slow_ranks, verdict,
};
use admiral_launch::hosts::Host;
use admiral_launch::job::{JobKind, Work};

use random::Random;
use ranks::Ranks;

const TICK: f64 = 0.1;
const BEAT: f64 = 0.5;
const STALL: u64 = 60;
const SLOTS: usize = 8;
const GLOBAL_BATCH: u64 = 2048;
const MICROBATCH: u64 = 4;

/// A fault in a group.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// A rank hangs in this phase, with this process state.
    Hang(Phase, char),
    /// SIGSTOP at any point.
    Stopped,
    /// A rank ends.
    Ends(End),
    /// The agent of a rank dies, and the rank with it.
    AgentDies,
    /// A host goes silent.
    HostLost,
    /// No collective completes any more.
    NetworkStalls,
    MpirunDies,
    /// A scheduler stops all ranks, and each writes a checkpoint.
    Preempted,
}

impl Fault {
    fn any(random: &mut Random) -> Self {
        match random.below(14) {
            0 => Self::Hang(Phase::Data, 'D'),
            1 => Self::Hang(Phase::Forward, 'R'),
            2 => Self::Hang(Phase::Optimizer, 'D'),
            3 => Self::Hang(Phase::Start, 'S'),
            4 => Self::Stopped,
            5 => Self::Ends(End::Signal(9)),
            6 => Self::Ends(End::Signal(11)),
            7 => Self::Ends(End::Code(1)),
            8 => Self::Ends(End::Code(69)),
            9 => Self::Ends(End::Code(74)),
            10 => Self::AgentDies,
            11 => Self::HostLost,
            12 => Self::NetworkStalls,
            _ => Self::MpirunDies,
        }
    }
}

/// The course of a simulated group.
#[derive(Debug)]
struct GroupResult {
    outcome: Outcome,
    /// The time at which the activity began that the fault interrupted.
    since: f64,
    /// The time at which the fault took effect.
    at: f64,
    /// The times at which the launcher reacted, and at which nothing was left.
    noticed: f64,
    over: f64,
    reached: u64,
}

/// A group that the launcher leads.
struct SimulatedGroup<'a> {
    group: Group,
    ranks: Ranks,
    hosts: Vec<String>,
    random: &'a mut Random,
    /// Messages on their way to the launcher, by arrival in microseconds and a sequence number.
    inbox: BTreeMap<(u64, u64), Event>,
    sent: u64,
    /// Ranks whose agents are silent.
    silent: Vec<bool>,
    ended: Vec<bool>,
    mpirun_lives: bool,
}

impl SimulatedGroup<'_> {
    fn send(&mut self, at: f64, event: Event) {
        self.sent += 1;
        self.inbox.insert(((at * 1e6) as u64, self.sent), event);
    }

    /// Sends an event that arrives at most `delay` after `now`.
    fn send_within(&mut self, now: f64, delay: f64, event: Event) {
        let at = now + self.random.between(0.001, delay);
        self.send(at, event);
    }

    fn end(&mut self, now: f64, rank: usize, end: End, delay: f64) {
        if !std::mem::replace(&mut self.ended[rank], true) && !self.silent[rank] {
            let reading = self.ranks.is_started(rank).then(|| self.ranks.reading(rank, now));
            self.send_within(now, delay, Event::Ended { rank, end, reading });
        }
    }

    /// Lets the other ranks lose a rank: inside the collective most end as if by a bug, and some hang.
    fn peers_fail(&mut self, now: f64, rank: usize) {
        for peer in 0..self.hosts.len() {
            let at = self.ranks.enters(peer).max(now);
            if peer != rank && at < now + 3.0 && self.random.below(4) != 0 {
                self.end(at, peer, End::Code(70), 0.25);
            }
        }
    }

    fn answer(&mut self, now: f64, output: &Output) {
        let world = self.hosts.len();
        match output {
            Output::StartAll => {
                for rank in 0..world {
                    let until = self.random.between(2.0, 40.0);
                    self.ranks.start(rank, now, until);
                }
                self.ranks.all_started(now);
            }
            Output::TakeStack(rank) => {
                if !self.silent[*rank] {
                    self.send_within(now, 1.0, Event::StackTaken { rank: *rank });
                }
            }
            Output::KillAll => {
                for rank in (0..world).filter(|&rank| !self.silent[rank]).collect::<Vec<_>>() {
                    self.end(now, rank, End::Signal(9), 0.2);
                    let later = now + 0.2;
                    self.send_within(later, 0.3, Event::Gone { rank, left: 0 });
                }
            }
            Output::LeaveAll => {
                for rank in (0..world).filter(|&rank| !self.silent[rank]).collect::<Vec<_>>() {
                    self.send_within(now, 0.2, Event::Disconnected { rank });
                }
                // With a silent agent, mpirun keeps waiting.
                if self.mpirun_lives && !self.silent.contains(&true) {
                    self.mpirun_lives = false;
                    self.send(now + 0.4, Event::MpirunEnded);
                }
            }
            Output::KillMpirun => {
                self.mpirun_lives = false;
                self.send(now + 0.1, Event::MpirunEnded);
            }
            Output::SignalAll => {
                for rank in 0..world {
                    self.end(now, rank, End::Code(75), 4.0);
                }
            }
            Output::Finished(_) => {}
        }
    }

    /// Applies the fault to `rank`, and returns the time at which the group's current activity began.
    fn hit(&mut self, now: f64, fault: Fault, rank: usize) -> f64 {
        match fault {
            Fault::None => {}
            // This fault took effect when the rank reached the phase.
            Fault::Hang(..) => {}
            Fault::Stopped => return self.ranks.stop(rank, now),
            Fault::NetworkStalls => return self.ranks.stall(now),
            Fault::Ends(end) => {
                self.ranks.stop(rank, now);
                self.end(now, rank, end, 0.25);
                self.peers_fail(now, rank);
            }
            Fault::AgentDies => {
                self.ranks.stop(rank, now);
                self.silent[rank] = true;
                self.send_within(now, 0.25, Event::Disconnected { rank });
                self.peers_fail(now, rank);
            }
            Fault::HostLost => {
                let host = self.hosts[rank].clone();
                self.ranks.stop(rank, now);
                for other in 0..self.hosts.len() {
                    self.silent[other] |= self.hosts[other] == host;
                }
            }
            Fault::MpirunDies => {
                self.mpirun_lives = false;
                self.send(now, Event::MpirunEnded);
                for rank in 0..self.hosts.len() {
                    self.silent[rank] = true;
                    self.send(now + 0.01, Event::Disconnected { rank });
                }
            }
            Fault::Preempted => {
                for rank in 0..self.hosts.len() {
                    self.end(now, rank, End::Code(75), 4.0);
                }
            }
        }
        now
    }
}

fn options(reached_before: u64) -> GroupOptions {
    let timeouts = LaunchConfig { stall_seconds: STALL, ..LaunchConfig::default() }.timeouts();
    GroupOptions { kind: JobKind::Train, timeouts, stop_grace_seconds: 30.0, reached_before }
}

/// Leads a group from `begin` on. The fault hits `rank` after `after` seconds; without a fault, the group is asked to
/// stop then.
fn lead(
    hosts: &[String],
    begin: f64,
    reached_before: u64,
    (fault, rank, after): (Fault, usize, f64),
    random: &mut Random,
) -> GroupResult {
    let world = hosts.len();
    let seats = hosts.iter().enumerate().map(|(rank, host)| (host.clone(), Some(rank % SLOTS)));
    let ranks = Ranks::new(world, reached_before, STALL as f64, random);
    let mut run = SimulatedGroup {
        group: Group::new(options(reached_before), seats, begin),
        ranks,
        hosts: hosts.to_vec(),
        inbox: BTreeMap::new(),
        sent: 0,
        silent: vec![false; world],
        ended: vec![false; world],
        mpirun_lives: true,
        random,
    };
    if let Fault::Hang(phase, state) = fault {
        run.ranks.will_hang(rank, phase, state, begin + after);
    }
    let hellos: Vec<f64> = (0..world).map(|_| begin + run.random.between(0.5, 8.0)).collect();
    for (rank, &hello) in hellos.iter().enumerate() {
        run.send(hello, Event::Hello { rank });
    }
    let mut beats: Vec<f64> = hellos.iter().map(|hello| hello + run.random.between(0.0, BEAT)).collect();
    let (mut now, mut since, mut at, mut noticed) = (begin, begin, f64::INFINITY, None);
    let (mut is_hit, mut asked) = (false, false);
    loop {
        now += TICK;
        assert!(now < begin + after + 1000.0, "{fault:?} of rank {rank} was never noticed");
        run.ranks.advance(now);
        // A bug and the loss of a peer end a rank in the same way. Outside a collective, it can only be the bug.
        let is_apart = fault != Fault::Ends(End::Code(70)) || now < run.ranks.enters(rank);
        if !is_hit && now >= begin + after && is_apart {
            is_hit = true;
            at = now;
            since = run.hit(now, fault, rank);
        }
        for (rank, beat) in beats.iter_mut().enumerate() {
            if now >= *beat {
                *beat += BEAT;
                if !run.silent[rank] && !run.ended[rank] && run.ranks.is_started(rank) {
                    let (reading, state) = (run.ranks.reading(rank, now), Some(run.ranks.state(rank)));
                    run.send_within(now, 0.3, Event::Beat { rank, reading, state });
                } else if !run.silent[rank] {
                    run.send_within(now, 0.3, Event::Alive { rank });
                }
            }
        }
        let mut due = Vec::new();
        while let Some(entry) = run.inbox.first_entry().filter(|entry| entry.key().0 <= (now * 1e6) as u64) {
            due.push((entry.key().0 as f64 / 1e6, entry.remove()));
        }
        if fault == Fault::None && is_hit && !std::mem::replace(&mut asked, true) {
            due.push((now, Event::StopRequested { repeated: false }));
        }
        due.push((now, Event::Tick));
        for (when, event) in due {
            for output in run.group.handle(when, event) {
                if matches!(output, Output::TakeStack(_) | Output::KillAll) {
                    noticed.get_or_insert(when);
                }
                if let Output::Finished(outcome) = output {
                    if let Fault::Hang(..) = fault {
                        since = run.ranks.hung_since(rank);
                        at = since;
                    }
                    let reached = run.group.reached();
                    return GroupResult { outcome, since, at, noticed: noticed.unwrap(), over: when, reached };
                }
                run.answer(when, &output);
            }
        }
        if fault == Fault::None && run.group.is_ending() {
            assert!(now >= begin + after, "a false alarm: {:?}", run.group);
        }
    }
}

fn names(hosts: &[Host], world: usize) -> Vec<String> {
    let mut names: Vec<String> =
        hosts.iter().flat_map(|host| std::iter::repeat_n(host.name.clone(), host.slots)).collect();
    assert!(names.len() >= world);
    names.truncate(world);
    names
}

fn given(count: usize) -> Vec<Host> {
    (0..count).map(|host| Host { name: format!("n{host:02}"), slots: SLOTS, slots_given: true }).collect()
}

/// Checks that the launcher named the fault in time.
fn check(result: &GroupResult, fault: Fault, rank: usize, hosts: &[String]) -> Incident {
    let Outcome::Incident { incident, sentence } = &result.outcome else { panic!("{fault:?}: {result:?}") };
    let timeouts = options(0).timeouts;
    let (stall, silence) = (timeouts.stall.as_secs_f64(), timeouts.silence.as_secs_f64());
    let host = vec![hosts[rank].clone()];
    let (cause, culprit, blamed, limit) = match fault {
        Fault::Hang(Phase::Start, _) => (Cause::Start, Some(rank), host, timeouts.start.as_secs_f64()),
        Fault::Hang(..) | Fault::Stopped => (Cause::Stalled, Some(rank), host, stall),
        Fault::NetworkStalls => (Cause::Stalled, None, Vec::new(), stall),
        Fault::Ends(end) => (end.cause(), Some(rank), if end.blames_host() { host } else { Vec::new() }, 0.3),
        Fault::AgentDies => (Cause::AgentLost, Some(rank), host, 0.3),
        Fault::HostLost => (Cause::HostLost, hosts.iter().position(|name| *name == host[0]), host, silence),
        Fault::MpirunDies => (Cause::MpirunDied, None, Vec::new(), 0.3),
        Fault::Preempted => (Cause::Exit(75), incident.rank, Vec::new(), 4.0),
        Fault::None => panic!("{result:?}"),
    };
    let said = (incident.cause, incident.rank, incident.hosts.clone());
    assert_eq!(said, (cause, culprit, blamed), "{fault:?} of rank {rank}: {sentence}");
    // If a rank is stopped in the middle of something, the others may continue to the next collective.
    let from = result.at.max(result.since);
    assert!(result.noticed <= from + limit + 2.0 * BEAT, "{fault:?} noticed after {} s", result.noticed - from);
    assert!(result.over - result.noticed <= 10.0 + 2.0, "{fault:?}: down after {} s", result.over - result.noticed);
    if let Fault::Hang(phase, _) = fault {
        assert!(result.noticed >= result.since + limit, "{fault:?}: too early, {sentence}");
        let waits = format!("{} ranks wait for it", hosts.len() - 1);
        assert!(sentence.contains(phase.doing()) && sentence.ends_with(&waits), "{sentence}");
        assert!(sentence.starts_with(&format!("rank {rank} ({}, GPU {})", hosts[rank], rank % SLOTS)), "{sentence}");
    }
    if fault == Fault::Stopped {
        assert!(sentence.contains("SIGSTOP"), "{sentence}");
    }
    incident.clone()
}

/// Lets each fault happen to `times` random ranks of 512.
fn check_every_fault(seed: u64, times: usize) {
    let mut random = Random::new(seed);
    let hosts = names(&given(64), 512);
    let faults = [
        Fault::Hang(Phase::Start, 'S'),
        Fault::Hang(Phase::Data, 'D'),
        Fault::Hang(Phase::Forward, 'R'),
        Fault::Hang(Phase::Optimizer, 'D'),
        Fault::Stopped,
        Fault::Ends(End::Signal(9)),
        Fault::Ends(End::Code(69)),
        Fault::Ends(End::Code(70)),
        Fault::AgentDies,
        Fault::HostLost,
        Fault::NetworkStalls,
        Fault::MpirunDies,
        Fault::Preempted,
    ];
    for fault in faults {
        for _ in 0..times {
            let rank = random.below(512);
            let after = if fault == Fault::Hang(Phase::Start, 'S') { 0.0 } else { random.between(60.0, 150.0) };
            let result = lead(&hosts, 0.0, 0, (fault, rank, after), &mut random);
            check(&result, fault, rank, &hosts);
        }
    }
}

#[test]
fn every_fault_is_recognized_among_512_ranks() {
    check_every_fault(1, 1);
}

/// Runs 512 ranks without a fault.
fn check_that_uneven_steps_raise_no_alarm(seconds: f64) {
    let mut random = Random::new(2);
    let hosts = names(&given(64), 512);
    let result = lead(&hosts, 0.0, 0, (Fault::None, 0, seconds), &mut random);
    assert!(matches!(result.outcome, Outcome::Stopped { code: 75, .. }), "{result:?}");
    assert!(result.noticed >= seconds && result.reached > 30, "{result:?}");
}

#[test]
fn twenty_minutes_of_uneven_steps_raise_no_alarm() {
    check_that_uneven_steps_raise_no_alarm(1200.0);
}

#[test]
fn launches_heal_until_they_end() {
    check_launches(0..2);
}

/// Exhaustive tests.
mod long {
    use super::*;

    #[test]
    #[ignore = "long: make test-long"]
    fn every_fault_is_recognized_among_512_ranks_again_and_again() {
        check_every_fault(3, 4);
    }

    #[test]
    #[ignore = "long: make test-long"]
    fn an_hour_of_uneven_steps_raises_no_alarm() {
        check_that_uneven_steps_raise_no_alarm(3600.0);
    }

    #[test]
    #[ignore = "long: make test-long"]
    fn many_launches_heal_until_they_end() {
        check_launches(2..10);
    }
}

/// Runs whole launches with many incidents on 66 hosts, of which two are spares.
fn check_launches(seeds: Range<u64>) {
    let (mut incidents, mut ends) = (0, BTreeMap::new());
    for seed in seeds {
        let mut random = Random::new(100 + seed);
        let given = given(66);
        let (max_restarts, window_seconds) = (8, 7200.0);
        let (mut history, mut left_out): (Vec<Incident>, Vec<String>) = (Vec::new(), Vec::new());
        let (mut begin, mut reached) = (0.0, 0);
        let (mut hosts, mut world_now) = (given.clone(), 512);
        loop {
            assert!(BatchDivision::new(GLOBAL_BATCH, MICROBATCH, world_now as u64).is_ok());
            assert!(hosts.iter().all(|host| !left_out.contains(&host.name)), "{left_out:?}");
            let names = names(&hosts, world_now);
            let rank = random.below(world_now);
            let fault = Fault::any(&mut random);
            let start = matches!(fault, Fault::Hang(Phase::Start, _));
            let after = if start { 0.0 } else { random.between(60.0, 120.0) };
            let result = lead(&names, begin, reached, (fault, rank, after), &mut random);
            let incident = check(&result, fault, rank, &names);
            assert_eq!(incident.steps_gained, result.reached.saturating_sub(reached));
            reached = reached.max(result.reached);
            incidents += 1;
            let situation = Situation {
                hosts: &given,
                left_out: &left_out,
                world_wanted: 512,
                work: Work::Train { global_batch: GLOBAL_BATCH, microbatch: MICROBATCH },
                min_world: 256,
                history: &history,
                max_restarts,
                window_seconds,
                base_delay_seconds: 1.0,
                restart_on_preemption: false,
            };
            match decide(&incident, &situation) {
                Action::Stop { code, reason } => {
                    assert!(history.len() as u64 <= max_restarts, "{reason}");
                    *ends.entry(code).or_insert(0) += 1;
                    break;
                }
                Action::Restart { delay_seconds, hosts: next, world, left_out: new, .. } => {
                    left_out.extend(new.into_iter().map(|(host, _)| host));
                    begin = result.over + delay_seconds;
                    (hosts, world_now) = (next, world);
                }
            }
            history.push(incident);
        }
    }
    println!("{incidents} incidents; launches ended with {ends:?} (code: times)");
}

/// Measures the costs of a verdict, of a check for slow ranks and of a decision. Run with `--ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn costs_of_a_verdict_and_of_a_decision() {
    let mut random = Random::new(7);
    let given = given(66);
    let hosts = names(&given, 512);
    let options = options(0);
    let mut ranks = Ranks::new(512, 0, STALL as f64, &mut random);
    let seats = hosts.iter().enumerate().map(|(rank, host)| (host.clone(), Some(rank % SLOTS)));
    let mut group = Group::new(options.clone(), seats, 0.0);
    for rank in 0..512 {
        group.handle(0.0, Event::Hello { rank });
        ranks.start(rank, 0.0, 5.0);
    }
    ranks.all_started(0.0);
    ranks.advance(600.0);
    let beat = |ranks: &Ranks, rank, now| Event::Beat { rank, reading: ranks.reading(rank, now), state: Some('R') };
    let rounds = 2000;
    let time = |what: &str, mut work: Box<dyn FnMut() + '_>| {
        let start = Instant::now();
        (0..rounds).for_each(|_| work());
        println!("{what}: {:.1} us", start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds));
    };
    let events: Vec<Event> = (0..512).map(|rank| beat(&ranks, rank, 600.0)).collect();
    time(
        "one beat of each of 512 ranks",
        Box::new(|| {
            for event in &events {
                assert!(group.handle(600.0, event.clone()).is_empty());
            }
        }),
    );
    time("a tick of the group: ledgers and verdict", Box::new(|| assert!(group.handle(600.0, Event::Tick).is_empty())));
    let views = group.views();
    time(
        "a verdict that all is well",
        Box::new(|| assert!(verdict(&views, &options.timeouts, JobKind::Train).sentence().is_none())),
    );
    let mut late = views.clone();
    for view in &mut late {
        let reading = view.reading.as_mut().unwrap();
        reading.phase_seconds = 100.0;
        reading.phase = if view.rank == 77 { Phase::Data } else { Phase::Reduce };
        reading.collectives = 900 + u64::from(view.rank != 77);
    }
    time(
        "a verdict that names one rank",
        Box::new(|| assert_eq!(verdict(&late, &options.timeouts, JobKind::Train).culprits(), [77])),
    );
    time("a look for slow ranks", Box::new(|| drop(slow_ranks(&views, JobKind::Train))));
    let incident = |at: u32| Incident {
        at_seconds: f64::from(at),
        rank: Some(77),
        hosts: vec![format!("n{:02}", at % 64)],
        cause: Cause::Signal(11),
        steps_gained: 1,
    };
    let history: Vec<Incident> = (0..50).map(incident).collect();
    let lost = Incident { cause: Cause::HostLost, ..incident(60) };
    let situation = Situation {
        hosts: &given,
        left_out: &["n01".to_owned(), "n02".to_owned()],
        world_wanted: 512,
        work: Work::Train { global_batch: GLOBAL_BATCH, microbatch: MICROBATCH },
        min_world: 1,
        history: &history,
        max_restarts: 100,
        window_seconds: 3600.0,
        base_delay_seconds: 1.0,
        restart_on_preemption: false,
    };
    time(
        "a decision after 50 incidents on 66 hosts",
        Box::new(|| {
            assert!(matches!(decide(&lost, &situation), Action::Restart { world: 256, .. }));
        }),
    );
}
