//! Ledgers of the ranks of real runs, read by another process: under the real mpirun and with injected faults.

use std::os::fd::AsRawFd;
use std::process::Command;

use admiral_contract::{ExitCode, Ledger, Phase, Reading, environment};
use admiral_goodput::{EventKind, read_events};

use crate::mpirun::{self, Finished, Running, run};
use crate::runs::{PATIENCE, Place, assert_same, errors, wait_until};

/// Starts a rank with the ledger of its number.
const STARTER: [&str; 4] = [
    "bash",
    "-c",
    "export ADMIRAL_LEDGER=$(printenv TEST_LEDGER_${OMPI_COMM_WORLD_RANK:-0}); exec \"$@\"",
    "a rank with its ledger",
];

/// A run and the ledgers of its ranks.
struct Watched {
    ledgers: Vec<Ledger>,
    command: Command,
}

impl Watched {
    fn new(place: &Place, ranks: usize, run_folder: &str, arguments: &[&str]) -> Self {
        let ledgers: Vec<Ledger> = (0..ranks).map(|_| Ledger::create().unwrap()).collect();
        let mut command = place.train_through(&STARTER, ranks, run_folder, arguments);
        for (rank, ledger) in ledgers.iter().enumerate() {
            let file = format!("/proc/{}/fd/{}", std::process::id(), ledger.file().unwrap().as_raw_fd());
            command.env(format!("TEST_LEDGER_{rank}"), file);
        }
        Self { ledgers, command }
    }

    fn readings(&self) -> Vec<Reading> {
        self.ledgers.iter().map(Ledger::read).collect()
    }

    /// Starts the run, and waits until `done` returns true for the readings of its ledgers.
    fn until(&mut self, done: impl Fn(&[Reading]) -> bool) -> (Running, Vec<Reading>) {
        let running = Running::start(&mut self.command);
        wait_until("the ledgers say so", || done(&self.readings()));
        let readings = self.readings();
        (running, readings)
    }
}

/// The arguments that set the fields of a fault.
fn faults<'a>(fields: &[&'a str]) -> Vec<&'a str> {
    ["faults.enabled=true"].iter().chain(fields).flat_map(|field| ["--set", field]).collect()
}

#[test]
fn ledgers_show_which_rank_hangs_and_where() {
    let place = Place::new();
    let hang = ["faults.hang_rank=1", "faults.at_step=4", "faults.phase=backward", "training.save_interval=2"];
    let mut watched = Watched::new(&place, 2, "run", &faults(&hang));
    let (running, readings) = watched.until(|ranks| {
        // The communication thread counts an exchange slightly after the rank starts to wait for it.
        let waits = ranks[0].phase == Phase::Reduce && ranks[0].collectives > ranks[1].collectives;
        ranks[1].phase == Phase::Backward && ranks[1].step == 4 && waits
    });
    let [waiting, culprit] = &readings[..] else { panic!("{readings:?}") };
    assert_eq!((waiting.step, waiting.bucket, culprit.step, culprit.bucket), (4, 0, 4, 0));
    assert_eq!(waiting.collectives, culprit.collectives + 1, "one exchange more has been entered by who waits");
    let owner = std::fs::read_to_string(place.path("run/checkpoints/owner.json")).unwrap();
    let owner: serde_json::Value = serde_json::from_str(&owner).unwrap();
    for reading in &readings {
        assert_eq!((reading.last_step, reading.global_batch), (20, 8));
        assert!(reading.step_seconds > 0.0 && reading.wait_seconds <= reading.step_seconds, "{reading:?}");
        let exe = std::fs::read_link(format!("/proc/{}/exe", reading.pid)).unwrap();
        assert_eq!(exe.as_os_str(), env!("CARGO_BIN_EXE_admiral"));
        assert_eq!(reading.attempt_id, owner["writer"]["attempt_id"].as_str().unwrap());
    }
    // Later readings show the same.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let later = watched.readings();
    assert_eq!((later[1].beats, later[0].beats), (culprit.beats, waiting.beats));
    assert!(later[1].phase_seconds >= culprit.phase_seconds + 0.3);
    running.kill();
}

#[test]
fn ledgers_show_the_end_of_a_run() {
    let place = Place::new();
    for (ranks, resume) in [(2, "auto"), (1, "auto")] {
        let steps = if ranks == 2 { "training.steps=4" } else { "training.steps=6" };
        let watched = &mut Watched::new(
            &place,
            ranks,
            "run",
            &["--resume", resume, "--set", steps, "--set", "training.save_interval=2"],
        );
        let finished = run(&mut watched.command, PATIENCE);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let last = if ranks == 2 { 4 } else { 6 };
        for reading in watched.readings() {
            assert_eq!((reading.phase, reading.step, reading.last_step), (Phase::End, last, last), "{reading:?}");
            assert_eq!(reading.checkpoint_step, last);
        }
        let collectives: Vec<u64> = watched.readings().iter().map(|reading| reading.collectives).collect();
        assert!(collectives.iter().all(|&count| count == collectives[0]), "{collectives:?}");
        assert_eq!(collectives[0] > 0, ranks > 1);
    }
}

#[test]
fn a_run_continues_without_a_valid_ledger() {
    let place = Place::new();
    let mut command = place.train(1, "run", &["--set", "training.steps=2"]);
    command.env(environment::LEDGER, place.path("tiny.yaml"));
    let finished = run(&mut command, PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("cannot see where it stands"), "{}", finished.stderr);
}

/// Runs until a fault ends the run.
fn struck(place: &Place, run_folder: &str, fields: &[&str]) -> (Finished, Vec<Reading>) {
    let mut watched = Watched::new(place, 2, run_folder, &faults(fields));
    let finished = run(&mut watched.command, PATIENCE);
    assert!(!finished.timed_out, "{fields:?}: {}", finished.stderr);
    assert!(finished.stderr.contains("FAULTS ARE ON"), "{}", finished.stderr);
    (finished, watched.readings())
}

/// Runs in which rank 1 fails once in each of these phases. `fault` is how it fails.
fn strikes_once_in(phases: &[(&str, Phase, &str)]) {
    let place = Place::new();
    let straight = place.trained(2, "straight", &[]);
    assert!(!straight.stderr.contains("faults"), "{}", straight.stderr);
    for &(phase, found, fault) in phases {
        let at_phase = format!("faults.phase={phase}");
        let rank = format!("faults.{fault}_rank=1");
        let fields = ["faults.at_step=5", &at_phase, &rank, "training.save_interval=5"];
        let (finished, readings) = struck(&place, phase, &fields);
        assert!(finished.code != Some(0), "{phase}");
        assert_eq!((readings[1].phase, readings[1].step), (found, 5), "{phase}: {readings:?}");
        let mut again = place.train(2, phase, &[&faults(&fields)[..], &["--resume", "auto"]].concat());
        again.env(environment::ATTEMPT, "1");
        let finished = run(&mut again, PATIENCE);
        assert_eq!(finished.code, Some(0), "{phase}: {}", finished.stderr);
        assert_same(&place.tensors("straight", 20), &place.tensors(phase, 20));
    }
}

#[test]
fn a_fault_before_the_reduction_strikes_in_its_phase_and_only_at_the_first_start() {
    strikes_once_in(&[
        ("data", Phase::Data, "kill"),
        ("forward", Phase::Forward, "kill"),
        ("backward", Phase::Backward, "segv"),
    ]);
}

#[test]
fn a_fault_from_the_reduction_on_strikes_in_its_phase_and_only_at_the_first_start() {
    strikes_once_in(&[
        // It dies before it enters the exchange.
        ("reduce", Phase::Backward, "kill"),
        ("optimizer", Phase::Optimizer, "kill"),
        ("checkpoint", Phase::Checkpoint, "kill"),
    ]);
}

#[test]
fn a_fault_exits_with_its_code() {
    let place = Place::new();
    let code = format!("faults.exit_code={}", ExitCode::Node as u8);
    let (finished, readings) = struck(&place, "run", &["faults.at_step=3", "faults.exit_rank=1", &code]);
    assert_eq!(finished.code, Some(i32::from(ExitCode::Node as u8)), "{}", finished.stderr);
    assert_eq!((readings[1].phase, readings[1].step), (Phase::Forward, 3));
}

#[test]
fn a_stopped_rank_continues_after_sigcont() {
    let place = Place::new();
    let stop = ["faults.at_step=3", "faults.stop_rank=1", "faults.phase=optimizer"];
    let mut watched = Watched::new(&place, 2, "run", &faults(&stop));
    let is_stopped = |pid: u64| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    };
    let (running, readings) = watched.until(|ranks| ranks[1].step == 3 && is_stopped(ranks[1].pid));
    assert_eq!(readings[1].phase, Phase::Optimizer);
    // SAFETY: the process belongs to this test.
    unsafe { libc::kill(readings[1].pid as i32, libc::SIGCONT) };
    let finished = running.finish(PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

#[test]
fn a_run_survives_a_temporary_loss_of_storage() {
    let place = Place::new();
    place.trained(2, "straight", &[]);
    let cut = ["faults.at_step=9", "faults.cut_storage_seconds=3"];
    let (finished, _) = struck(&place, "cut", &cut);
    assert_eq!((finished.code, errors(&finished).len()), (Some(0), 0), "{}", finished.stderr);
    assert!(finished.stderr.contains("faults: the storage is cut off"), "{}", finished.stderr);
    assert!(finished.stderr.contains("trying again"), "{}", finished.stderr);
    assert_same(&place.tensors("straight", 20), &place.tensors("cut", 20));
}

#[test]
fn a_slow_rank_is_named_and_its_times_are_plotted() {
    let place = Place::new();
    let slow = ["faults.at_step=1", "faults.slow_rank=1", "faults.slow_factor=8", "training.log_interval=10"];
    let (finished, _) = struck(&place, "run", &slow);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let named = format!("rank 1 ({}) is slow: its own work takes", host.trim());
    // At most once a minute.
    assert_eq!(finished.stderr.matches(&named).count(), 1, "{}", finished.stderr);
    for kind in ["step", "data", "wait"] {
        let curves = ["min", "median", "max"].map(|end| place.curve("run", &format!("ranks/{kind}_seconds/{end}")));
        let [min, median, max] = &curves;
        assert_eq!(curves.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2], "{kind}");
        assert!(min.iter().zip(median).zip(max).all(|((min, median), max)| min <= median && median <= max), "{kind}");
        assert!(kind != "wait" || max[1] > min[1], "who waits, and who is waited for: {curves:?}");
    }
    let (events, _) = read_events(&place.path("run")).unwrap();
    let intervals = events.iter().filter_map(|event| match event.kind {
        EventKind::StepsEnd { seconds, .. } => Some(seconds),
        _ => None,
    });
    let (straggler, exchange) =
        intervals.fold((0.0, 0.0), |sums, seconds| (sums.0 + seconds.straggler, sums.1 + seconds.exchange));
    assert!(straggler > exchange && exchange > 0.0, "rank 0 waits for the other one: {straggler} s, {exchange} s");
}

#[test]
fn bench_allreduce_measures_sums_and_connections() {
    let mut command = mpirun::mpirun(3);
    command.arg(env!("CARGO_BIN_EXE_admiral")).args(["bench", "allreduce", "--mebibytes", "1", "--json"]);
    let finished = run(&mut command, PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let measured: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(measured["ranks"].as_array().unwrap().len(), 3);
    let links: Vec<&serde_json::Value> = measured["links"].as_array().unwrap().iter().collect();
    let pairs: Vec<&serde_json::Value> = links.iter().map(|link| &link["ranks"]).collect();
    assert_eq!(pairs, [&serde_json::json!([0, 1]), &serde_json::json!([1, 2]), &serde_json::json!([2, 0])]);
    assert!(links.iter().all(|link| link["bytes_per_second"].as_f64().unwrap() > 0.0), "{measured}");
    assert_eq!(measured["over"], "MPI");
    let [least, median, most] = ["least", "median", "most"].map(|end| measured["all_reduce_spread"][end].as_f64());
    assert!(Some(0.0) < least && least <= median && median <= most, "{measured}");
    assert_eq!(median, measured["all_reduce_seconds"].as_f64());
    let alone = run(Command::new(env!("CARGO_BIN_EXE_admiral")).args(["bench", "allreduce"]), PATIENCE);
    assert_eq!((alone.code, errors(&alone).len()), (Some(64), 1), "{}", alone.stderr);
}
