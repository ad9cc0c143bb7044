//! Launches with many random failures, and a table of their cost.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::bed::{Launch, PATIENCE, incidents, parent_of, pid_of, signal};
use crate::stage::{STANDSTILL, Stage, verdict};

/// The steps of a run, long enough for a dozen incidents.
const STEPS: u64 = 300;

/// A failure that a test causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Kill,
    Abort,
    Stop,
    Agent,
    Mpirun,
    /// Kills mpirun's daemon on n1.
    Orted,
    Launcher,
    Cut,
    /// Stops the host.
    Gone,
}

/// All failures.
const FAILURES: [Failure; 9] = [
    Failure::Kill,
    Failure::Abort,
    Failure::Stop,
    Failure::Agent,
    Failure::Mpirun,
    Failure::Orted,
    Failure::Launcher,
    Failure::Cut,
    Failure::Gone,
];

/// What holds up the launcher for a while. It ends no run and is no incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standstill {
    /// The launcher is stopped with SIGSTOP.
    Launcher,
    /// The file system of the run's folder does not answer to the launcher and the agents.
    Folder,
}

/// How long a launcher is held up. Longer than agents and launcher wait for a process that is gone.
const HELD_UP: Duration = Duration::from_secs(8);

/// A failure that a launcher has recorded: its time in seconds since 1970, and the incident file.
struct Recorded {
    failure_kind: Failure,
    at: f64,
    failure: Value,
}

/// SplitMix64. A seed reproduces a storm.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % bound
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Disturbs runs on four hosts, two of them spare, until there were `count` incidents. Each run ends with the bytes of
/// an undisturbed run, each verdict names the failure, and no process is left.
pub fn run_until(count: usize) {
    let Some(stage) = Stage::new(4, 4, STEPS) else { return };
    let wanted = std::env::var("ADMIRAL_CHAOS_SEED").ok().and_then(|text| text.parse().ok());
    let seed = wanted.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("storm: ADMIRAL_CHAOS_SEED={seed}");
    let mut draw = Draw(seed);
    stage.place.frozen_disk();
    let (mut recorded, mut total, mut number, mut standstills) = (Vec::new(), 0, 0, 0);
    while total < count {
        let name = format!("storm-{number}");
        total += one_run(&stage, &name, &mut draw, &mut recorded, &mut standstills);
        number += 1;
        eprintln!(
            "storm: {total} incidents and {standstills} standstills of a launcher or its folder in {number} runs"
        );
    }
    println!("{standstills} standstills of 8 s of a launcher or its folder, without an incident");
    table(&recorded, total, number);
}

/// Holds up a launcher for a while.
fn hold_up(launch: &Launch, kind: Standstill, flag: &Path) {
    match kind {
        Standstill::Launcher => launch.running.signal(libc::SIGSTOP),
        Standstill::Folder => std::fs::write(flag, "").expect("the flag"),
    }
    std::thread::sleep(HELD_UP);
    match kind {
        Standstill::Launcher => launch.running.signal(libc::SIGCONT),
        Standstill::Folder => std::fs::remove_file(flag).expect("the flag"),
    }
}

/// Disturbs one run until its end. Returns the number of incidents, and counts the standstills.
fn one_run(stage: &Stage, name: &str, draw: &mut Draw, recorded: &mut Vec<Recorded>, standstills: &mut usize) -> usize {
    let hosts = "n0:2,n1:2,n2:2,n3:2";
    // The launcher leaves out hosts that fail repeatedly. With fewer ranks than 4 the bytes would differ.
    let arguments = [&["--max-restarts", "1000", "--min-ranks", "4"], &STANDSTILL[..]].concat();
    let run = stage.place.path(name);
    let flag = stage.place.path("frozen");
    let start = || {
        let mut command = stage.command(name, hosts, &arguments);
        command.env("LD_PRELOAD", stage.place.path("frozen_disk.so")).env("FROZEN_PROGRAM", "admiral-launch");
        command.env("FROZEN_FLAG", &flag).env("FROZEN_FOLDER", &run);
        Launch::start(&mut command, run.clone())
    };
    let mut launch = start();
    let before = recorded.len();
    let (mut count, mut next) = (0, 5 + draw.below(15));
    // The lost host, and the command that brings it back. Only one per run, because spare hosts are few.
    let mut lost: Option<(String, &str)> = None;
    while let Some(state) = at_step(&launch, next) {
        let seen = incidents(&run).len();
        if draw.below(4) == 0 {
            let kind = if draw.below(2) == 0 { Standstill::Launcher } else { Standstill::Folder };
            hold_up(&launch, kind, &flag);
            *standstills += 1;
            assert_eq!(incidents(&run).len(), seen, "{name}: {kind:?} has ended ranks");
            next = launch.step().max(next) + 1;
            continue;
        }
        let rank = usize::try_from(draw.below(4)).expect("small");
        let mut failure_kind = FAILURES[usize::try_from(draw.below(FAILURES.len() as u64)).expect("small")];
        let host = state["ranks"][rank]["host"].as_str().expect("a host").to_owned();
        if matches!(failure_kind, Failure::Cut | Failure::Gone) && (lost.is_some() || host == "n0") {
            failure_kind = Failure::Kill;
        }
        if failure_kind == Failure::Launcher && lost.is_some() {
            // The next launcher would not know that the host is lost, and would record another incident.
            failure_kind = Failure::Kill;
        }
        let daemon = if failure_kind == Failure::Orted { stage.bed.process("n1", "orted") } else { None };
        if failure_kind == Failure::Orted && daemon.is_none() {
            // The launcher has left out n1 already.
            failure_kind = Failure::Kill;
        }
        let pid = pid_of(&state, rank);
        if !Path::new(&format!("/proc/{pid}")).exists() {
            break;
        }
        let at = now();
        match failure_kind {
            Failure::Kill => signal(pid, libc::SIGKILL),
            Failure::Abort => signal(pid, libc::SIGABRT),
            Failure::Stop => signal(pid, libc::SIGSTOP),
            Failure::Agent => signal(parent_of(pid), libc::SIGKILL),
            Failure::Mpirun => signal(stage.bed.mpirun(), libc::SIGKILL),
            Failure::Orted => signal(daemon.expect("it was looked for"), libc::SIGKILL),
            Failure::Launcher => launch.running.signal(libc::SIGKILL),
            Failure::Cut => {
                stage.bed.control(&["cut", &host]);
                lost = Some((host.clone(), "mend"));
            }
            Failure::Gone => {
                stage.bed.control(&["stop", &host]);
                lost = Some((host.clone(), "start"));
            }
        }
        count += 1;
        if failure_kind == Failure::Launcher {
            launch.running.finish(PATIENCE);
            launch = start();
        } else {
            let failure = failure_after(&launch, seen);
            let says = verdict(&failure);
            let names = match failure_kind {
                Failure::Mpirun => says.contains("mpirun ended"),
                Failure::Orted => says.contains("daemon on n1"),
                Failure::Cut | Failure::Gone => says.contains(&host),
                _ => failure["rank"] == rank,
            };
            assert!(names, "{name}: {failure_kind:?} to rank {rank} on {host}: {says}");
            assert_eq!(failure["group"]["processes_left"], 0, "{name}: {failure:#}");
            recorded.push(Recorded { failure_kind, at, failure });
        }
        next = launch.step().max(next) + 10 + draw.below(20);
    }
    let finished = launch.finish();
    if let Some((host, back)) = lost {
        stage.bed.control(&[back, &host]);
    }
    stage.assert_whole(name, &finished, &["n0", "n1", "n2", "n3"]);
    // The incident files are complete now, because the run has continued after each incident.
    let complete = incidents(&run);
    assert_eq!(complete.len(), recorded.len() - before, "{name}: an incident that nobody made: {complete:#?}");
    for (recorded, failure) in recorded[before..].iter_mut().zip(complete) {
        recorded.failure = failure;
    }
    count
}

/// Waits for a step in any attempt. Returns the state, or `None` if the run ends first.
fn at_step(launch: &Launch, step: u64) -> Option<Value> {
    let end = Instant::now() + PATIENCE;
    if step + 5 >= STEPS {
        return None;
    }
    loop {
        if let Some(state) = launch.state() {
            let steps = state["step"].as_u64().unwrap_or(0);
            if state["condition"] == "ended" || steps + 5 >= STEPS {
                return None;
            }
            if state["condition"] == "training" && steps >= step {
                return Some(state);
            }
        }
        assert!(Instant::now() < end, "never at step {step}: {:?}", launch.state());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for the incident after the first `seen` ones.
fn failure_after(launch: &Launch, seen: usize) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(failure) = incidents(&launch.run).into_iter().nth(seen) {
            return failure;
        }
        assert!(Instant::now() < end, "no incident: {:?}", launch.state());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Prints the cost of the incidents by kind.
fn table(recorded: &[Recorded], total: usize, runs: usize) {
    println!("{total} incidents in {runs} runs; {} of them written down by the launcher that lived", recorded.len());
    println!("| what | incidents | seconds to detect | to stop | to the next step | steps lost |");
    println!("|---|---|---|---|---|---|");
    for failure_kind in FAILURES.into_iter().filter(|&failure_kind| failure_kind != Failure::Launcher) {
        let of: Vec<&Recorded> = recorded.iter().filter(|recorded| recorded.failure_kind == failure_kind).collect();
        let spread = |value: &dyn Fn(&Recorded) -> Option<f64>| {
            let mut values: Vec<f64> = of.iter().filter_map(|recorded| value(recorded)).collect();
            values.sort_by(f64::total_cmp);
            match values.as_slice() {
                [] => "-".to_owned(),
                all => format!("{:.1} ({:.1})", all[all.len() / 2], all[all.len() - 1]),
            }
        };
        println!(
            "| {failure_kind:?} | {} | {} | {} | {} | {} |",
            of.len(),
            spread(&|recorded| seconds_of(&recorded.failure["detected"]).map(|detected| detected - recorded.at)),
            spread(&|recorded| recorded.failure["group"]["seconds_to_down"].as_f64()),
            spread(&|recorded| recorded.failure["seconds_lost"].as_f64()),
            spread(&|recorded| recorded.failure["steps_lost"].as_f64()),
        );
    }
}

fn seconds_of(time: &Value) -> Option<f64> {
    let time: jiff::Timestamp = time.as_str()?.parse().ok()?;
    Some(time.as_nanosecond() as f64 / 1e9)
}
