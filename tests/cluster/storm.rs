//! Launches that are harmed again and again, at random, and what that cost.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::bed::{Launch, PATIENCE, incidents, parent_of, pid_of, signal};
use crate::stage::{STANDSTILL, Stage, verdict};

/// Steps of a run, a dozen incidents long.
const STEPS: u64 = 300;

/// What is done to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Kill,
    Abort,
    Stop,
    Agent,
    Mpirun,
    /// mpirun's daemon on n1.
    Orted,
    Launcher,
    Cut,
    /// The host is gone for good.
    Gone,
}

/// All of them.
const HARMS: [Harm; 9] = [
    Harm::Kill,
    Harm::Abort,
    Harm::Stop,
    Harm::Agent,
    Harm::Mpirun,
    Harm::Orted,
    Harm::Launcher,
    Harm::Cut,
    Harm::Gone,
];

/// A harm that a launcher has written down: when it was done, and the file's content.
struct Told {
    harm: Harm,
    at: f64,
    failure: Value,
}

/// SplitMix64: the same seed, the same storm.
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

/// Harms runs on four hosts, two of them spares, until `count` incidents are over; each run ends with the bytes of one
/// that nothing disturbed, each verdict names what was done, nothing is left.
pub fn weather(count: usize) {
    let Some(stage) = Stage::new(4, STEPS) else { return };
    let wanted = std::env::var("ADMIRAL_CHAOS_SEED").ok().and_then(|text| text.parse().ok());
    let seed = wanted.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("storm: ADMIRAL_CHAOS_SEED={seed}");
    let mut draw = Draw(seed);
    let (mut told, mut total, mut number) = (Vec::new(), 0, 0);
    while total < count {
        let name = format!("storm-{number}");
        total += one_run(&stage, &name, &mut draw, &mut told);
        number += 1;
        eprintln!("storm: {total} incidents in {number} runs");
    }
    table(&told, total, number);
}

/// One run through its storm; returns the incidents.
fn one_run(stage: &Stage, name: &str, draw: &mut Draw, told: &mut Vec<Told>) -> usize {
    let hosts = "n0:2,n1:2,n2:2,n3:2";
    // Hosts that fail again and again are left out while there are others; with fewer ranks the bytes would be others.
    let arguments = [&["--max-restarts", "1000", "--min-ranks", "4"], &STANDSTILL[..]].concat();
    let run = stage.place.path(name);
    let mut launch = stage.launch(name, hosts, &arguments);
    let before = told.len();
    let (mut count, mut next) = (0, 5 + draw.below(15));
    // A host that is lost, and what brings it back. One a run: the spares have to last.
    let mut lost: Option<(String, &str)> = None;
    while let Some(state) = at_step(&launch, next) {
        let seen = incidents(&run).len();
        let rank = usize::try_from(draw.below(4)).expect("small");
        let mut harm = HARMS[usize::try_from(draw.below(HARMS.len() as u64)).expect("small")];
        let host = state["ranks"][rank]["host"].as_str().expect("a host").to_owned();
        if matches!(harm, Harm::Cut | Harm::Gone) && (lost.is_some() || host == "n0") {
            harm = Harm::Kill;
        }
        if harm == Harm::Launcher && lost.is_some() {
            // The next launcher would not know of the lost host, and find it out by an incident of its own.
            harm = Harm::Kill;
        }
        let daemon = if harm == Harm::Orted { stage.bed.process("n1", "orted") } else { None };
        if harm == Harm::Orted && daemon.is_none() {
            // n1 is left out by now.
            harm = Harm::Kill;
        }
        let pid = pid_of(&state, rank);
        if !Path::new(&format!("/proc/{pid}")).exists() {
            break;
        }
        let at = now();
        match harm {
            Harm::Kill => signal(pid, libc::SIGKILL),
            Harm::Abort => signal(pid, libc::SIGABRT),
            Harm::Stop => signal(pid, libc::SIGSTOP),
            Harm::Agent => signal(parent_of(pid), libc::SIGKILL),
            Harm::Mpirun => signal(stage.bed.mpirun(), libc::SIGKILL),
            Harm::Orted => signal(daemon.expect("it was looked for"), libc::SIGKILL),
            Harm::Launcher => launch.running.signal(libc::SIGKILL),
            Harm::Cut => {
                stage.bed.control(&["cut", &host]);
                lost = Some((host.clone(), "mend"));
            }
            Harm::Gone => {
                stage.bed.control(&["stop", &host]);
                lost = Some((host.clone(), "start"));
            }
        }
        count += 1;
        if harm == Harm::Launcher {
            launch.running.finish(PATIENCE);
            launch = stage.launch(name, hosts, &arguments);
        } else {
            let failure = failure_after(&launch, seen);
            let says = verdict(&failure);
            let names = match harm {
                Harm::Mpirun => says.contains("mpirun ended"),
                Harm::Orted => says.contains("daemon on n1"),
                Harm::Cut | Harm::Gone => says.contains(&host),
                _ => failure["rank"] == rank,
            };
            assert!(names, "{name}: {harm:?} to rank {rank} on {host}: {says}");
            assert_eq!(failure["group"]["processes_left"], 0, "{name}: {failure:#}");
            told.push(Told { harm, at, failure });
        }
        next = launch.step().max(next) + 10 + draw.below(20);
    }
    let finished = launch.finish();
    if let Some((host, back)) = lost {
        stage.bed.control(&[back, &host]);
    }
    stage.assert_whole(name, &finished, &["n0", "n1", "n2", "n3"]);
    // Those of one run are complete now: it went on after each.
    let complete = incidents(&run);
    assert_eq!(complete.len(), told.len() - before, "{name}: an incident that nobody made: {complete:#?}");
    for (told, failure) in told[before..].iter_mut().zip(complete) {
        told.failure = failure;
    }
    count
}

/// The state at a step, in whichever attempt; none when the run comes to its end first.
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

/// The incident after `seen` others.
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

/// Prints what the incidents cost, by kind.
fn table(told: &[Told], total: usize, runs: usize) {
    println!("{total} incidents in {runs} runs; {} of them written down by the launcher that lived", told.len());
    println!("| what | incidents | seconds to detect | to stop | to the next step | steps lost |");
    println!("|---|---|---|---|---|---|");
    for harm in HARMS.into_iter().filter(|&harm| harm != Harm::Launcher) {
        let of: Vec<&Told> = told.iter().filter(|told| told.harm == harm).collect();
        let spread = |value: &dyn Fn(&Told) -> Option<f64>| {
            let mut values: Vec<f64> = of.iter().filter_map(|told| value(told)).collect();
            values.sort_by(f64::total_cmp);
            match values.as_slice() {
                [] => "-".to_owned(),
                all => format!("{:.1} ({:.1})", all[all.len() / 2], all[all.len() - 1]),
            }
        };
        println!(
            "| {harm:?} | {} | {} | {} | {} | {} |",
            of.len(),
            spread(&|told| seconds_of(&told.failure["detected"]).map(|detected| detected - told.at)),
            spread(&|told| told.failure["group"]["seconds_to_down"].as_f64()),
            spread(&|told| told.failure["seconds_lost"].as_f64()),
            spread(&|told| told.failure["steps_lost"].as_f64()),
        );
    }
}

fn seconds_of(time: &Value) -> Option<f64> {
    let time: jiff::Timestamp = time.as_str()?.parse().ok()?;
    Some(time.as_nanosecond() as f64 / 1e9)
}
