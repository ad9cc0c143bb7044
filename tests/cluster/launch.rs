//! Runs under the launcher with every kind of failure. Each run is restarted and ends with the same bytes as an
//! undisturbed run, the verdict names the failed rank or host, and no process is left.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use admiral_goodput::{EventKind, read_events};
use serde_json::Value;

use crate::bed::{self, Launch, incidents, launcher, parent_of, pid_of, signal};
use crate::runs::{self, Place};
use crate::stage::{STANDSTILL, Stage, verdict};
use crate::{mpirun, storm};

/// The steps of a run: enough to interrupt it in the middle, because the launcher reports its step once a second.
const STEPS: u64 = 100;

/// Two hosts with two ranks each.
const TWO_EACH: &str = "n0:2,n1:2";

/// Two hosts with one rank each, for tests in which more ranks would change nothing but the time.
const ONE_EACH: &str = "n0:1,n1:1";

/// The phases of a step in which faults can strike, and their words in a verdict.
const PHASES: [(&str, &str); 6] = [
    ("data", "reading data"),
    ("forward", "in the forward pass"),
    ("backward", "in the backward pass"),
    // The fault strikes before the rank enters the exchange.
    ("reduce", "in the backward pass"),
    ("optimizer", "in the optimizer"),
    ("checkpoint", "saving a checkpoint"),
];

#[test]
fn an_undisturbed_run_has_no_incident() {
    let Some(stage) = Stage::new(2, 4, STEPS) else { return };
    let finished = stage.launch("alone", TWO_EACH, &[]).finish();
    stage.assert_whole("alone", &finished, &["n0", "n1"]);
    assert_eq!(incidents(&stage.place.path("alone")), Vec::<Value>::new());
}

#[test]
fn failed_ranks_are_replaced_and_runs_end_the_same() {
    let Some(stage) = Stage::new(2, 4, STEPS) else { return };
    let incident = stage.harmed("killed", TWO_EACH, |_, state| signal(pid_of(state, 3), libc::SIGKILL));
    assert!(verdict(&incident).starts_with("rank 3 (n1) was killed by signal 9"), "{incident:#}");
    assert_eq!((&incident["rank"], &incident["host"]), (&3.into(), &"n1".into()));
    assert_eq!(incident["ranks"].as_array().map(Vec::len), Some(4));
    has_a_ledger(&stage.place.path("killed"));

    let incident = stage.harmed("crashed", TWO_EACH, |_, state| signal(pid_of(state, 1), libc::SIGABRT));
    assert!(verdict(&incident).starts_with("rank 1 (n0) was killed by signal 6 (SIGABRT)"), "{incident:#}");
}

/// Returns the ledger of a run's time.
fn ledger_of(run_folder: &Path) -> Value {
    let mut command = Command::new(launcher());
    let finished = mpirun::run(command.arg("goodput").arg(run_folder).arg("--json"), bed::PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    serde_json::from_str(&finished.stdout).unwrap()
}

/// Each second of a run with one failure is in one account.
fn has_a_ledger(run_folder: &Path) {
    let ledger = ledger_of(run_folder);
    assert_eq!((&ledger["failures"], &ledger["steps"]), (&1.into(), &STEPS.into()), "{ledger:#}");
    let accounts = ledger["all"]["accounts"].as_object().unwrap();
    let seconds = |account: &str| accounts[account]["seconds"].as_f64().unwrap();
    let sum: f64 = accounts.keys().map(|account| seconds(account)).sum();
    assert!((sum - ledger["all"]["seconds"].as_f64().unwrap()).abs() < 1e-3, "{ledger:#}");
    for account in ["productive", "start_program", "start_warm_up"] {
        assert!(seconds(account) > 0.0, "{account}: {ledger:#}");
    }
    let (mut events, _) = read_events(run_folder).unwrap();
    // A checkpoint is published beside the steps, and ends no span of time.
    events.retain(|event| !matches!(event.kind, EventKind::Saved { .. }));
    let times = |is_wanted: fn(&EventKind) -> bool| {
        events.iter().filter(|event| is_wanted(&event.kind)).map(|event| event.time).collect::<Vec<_>>()
    };
    let found = times(|kind| *kind == EventKind::FailureFound)[0];
    let gone = times(|kind| *kind == EventKind::AttemptEnds { has_failed: true })[0];
    let again = times(|kind| *kind == EventKind::AttemptBegins)[1];
    let sign_of_life = events.iter().map(|event| event.time).take_while(|&time| time < found).last().unwrap();
    for (account, time) in [
        ("failure_detection", found - sign_of_life),
        ("failure_shutdown", gone - found),
        ("failure_restart", again - gone),
    ] {
        assert!(time > 0.0 && (seconds(account) - time).abs() < 1e-3, "{account}, {time} s: {ledger:#}");
    }
    assert_eq!(seconds("down") + seconds("preempted"), 0.0, "{ledger:#}");
}

#[test]
fn a_stopped_rank_is_replaced_and_the_run_ends_the_same() {
    let Some(stage) = Stage::new(2, 4, STEPS) else { return };
    let stops = |_: &Launch, state: &Value| signal(pid_of(state, 2), libc::SIGSTOP);
    let incident = stage.harmed_with("stopped", TWO_EACH, &STANDSTILL, stops);
    assert_eq!(incident["rank"], 2, "{incident:#}");
    assert!(verdict(&incident).contains("its process is stopped"), "{incident:#}");
    assert!(verdict(&incident).contains("3 ranks wait for it"), "{incident:#}");
    assert!(incident["stack"].as_str().is_some_and(|stack| stack.contains("thread ")), "{incident:#}");
}

#[test]
fn failed_agents_and_parts_of_mpirun_are_replaced_and_runs_end_the_same() {
    let Some(stage) = Stage::new(2, 4, STEPS) else { return };
    let incident = stage.harmed("agent", TWO_EACH, |_, state| signal(parent_of(pid_of(state, 2)), libc::SIGKILL));
    assert!(verdict(&incident).starts_with("the agent of rank 2 (n1) is gone"), "{incident:#}");

    let incident = stage.harmed("mpirun", TWO_EACH, |_, _| signal(stage.bed.mpirun(), libc::SIGKILL));
    assert!(verdict(&incident).starts_with("mpirun ended before the ranks did"), "{incident:#}");

    let incident = stage.harmed("daemon", TWO_EACH, |_, _| {
        signal(stage.bed.process("n1", "orted").expect("a daemon on n1"), libc::SIGKILL);
    });
    assert!(verdict(&incident).starts_with("mpirun's daemon on n1 is gone"), "{incident:#}");
    assert_eq!((incident["rank"].is_null(), &incident["host"]), (true, &"n1".into()), "{incident:#}");
}

#[test]
fn failed_hosts_are_replaced_and_runs_end_the_same() {
    let Some(stage) = Stage::new(3, 4, STEPS) else { return };
    let incident = stage.harmed("cut", "n0:2,n1:2,n2:2", |_, _| {
        stage.bed.control(&["cut", "n1"]);
    });
    assert!(verdict(&incident).contains("n1"), "{incident:#}");
    assert!(incident["action"].as_str().unwrap().contains("the spare host n2 takes its place"), "{incident:#}");
    stage.bed.control(&["mend", "n1"]);
    stage.bed.assert_empty(&["n2"]);

    let incident = stage.harmed("gone", "n0:2,n1:2,n2:2", |_, _| {
        stage.bed.control(&["stop", "n1"]);
    });
    assert_eq!(incident["host"], "n1", "{incident:#}");
    stage.bed.control(&["start", "n1"]);
}

#[test]
fn ranks_end_with_their_launcher_and_the_next_launcher_resumes() {
    let Some(stage) = Stage::new(2, 2, STEPS) else { return };
    let launch = stage.launch("left", ONE_EACH, &[]);
    launch.wait_for(0, 20);
    launch.running.signal(libc::SIGKILL);
    let killed = launch.running.finish(bed::PATIENCE);
    assert_eq!(killed.signal, Some(libc::SIGKILL));
    stage.bed.assert_empty(&["n0", "n1"]);
    let finished = stage.launch("left", ONE_EACH, &[]).finish();
    assert!(finished.stderr.contains("ended without a word"), "{}", finished.stderr);
    stage.assert_whole("left", &finished, &["n0", "n1"]);
    let ledger = ledger_of(&stage.place.path("left"));
    assert!(ledger["all"]["accounts"]["down"]["seconds"].as_f64().unwrap() > 0.0, "until it was started: {ledger:#}");
}

#[test]
fn a_run_stopped_before_its_first_step_resumes() {
    let Some(stage) = Stage::new(2, 2, STEPS) else { return };
    let launch = stage.launch("early", ONE_EACH, &[]);
    let end = Instant::now() + bed::PATIENCE;
    // Until agents or ranks have started.
    while launch.state().is_none_or(|state| state["ranks"].as_array().is_none_or(Vec::is_empty)) {
        assert!(Instant::now() < end, "never started: {:?}", launch.state());
        std::thread::sleep(Duration::from_millis(20));
    }
    launch.running.signal(libc::SIGTERM);
    let stopped = launch.finish();
    assert_eq!(stopped.code, Some(75), "{}", stopped.stderr);
    assert_eq!(incidents(&stage.place.path("early")), Vec::<Value>::new(), "no incident");
    stage.bed.assert_empty(&["n0", "n1"]);
    let finished = stage.launch("early", ONE_EACH, &[]).finish();
    stage.assert_whole("early", &finished, &["n0", "n1"]);
}

#[test]
fn a_stopped_run_saves_and_resumes() {
    let Some(stage) = Stage::new(2, 2, STEPS) else { return };
    let launch = stage.launch("asked", ONE_EACH, &[]);
    launch.wait_for(0, 20);
    launch.running.signal(libc::SIGTERM);
    let stopped = launch.finish();
    assert_eq!(stopped.code, Some(75), "{}", stopped.stderr);
    stage.bed.assert_empty(&["n0", "n1"]);
    let finished = stage.launch("asked", ONE_EACH, &[]).finish();
    assert!(!finished.stdout.contains("training steps 0 to"), "{}", finished.stdout);
    stage.assert_whole("asked", &finished, &["n0", "n1"]);
}

#[test]
fn a_run_without_spare_hosts_continues_with_fewer_ranks() {
    let Some(stage) = Stage::new(2, 4, STEPS) else { return };
    let launch = stage.launch("fewer", TWO_EACH, &[]);
    launch.wait_for(0, 20);
    stage.bed.control(&["stop", "n1"]);
    let finished = launch.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(stage.place.is_published("fewer", STEPS));
    let incidents = incidents(&stage.place.path("fewer"));
    assert!(incidents[0]["action"].as_str().unwrap().contains("with 2 ranks"), "{:#}", incidents[0]);

    stage.bed.control(&["start", "n1"]);
    let launch = stage.launch("too-few", TWO_EACH, &["--min-ranks", "3"]);
    launch.wait_for(0, 20);
    stage.bed.control(&["stop", "n1"]);
    let stopped = launch.finish();
    assert_eq!(stopped.code, Some(74), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("numbers of ranks: 4"), "{}", stopped.stderr);
}

/// A fault strikes rank 2 once in a phase of step 30. The verdict must name the rank and the phase.
fn struck_in(stage: &Stage, fault: &str, phase: &str, doing: &str) {
    let name = format!("{fault}-{phase}");
    let fields = ["enabled=true", "at_step=30", &format!("{fault}=2"), &format!("phase={phase}")]
        .map(|field| format!("faults.{field}"));
    let fields = fields.iter().flat_map(|field| ["--set", field]).chain(STANDSTILL).collect::<Vec<_>>();
    let finished = stage.launch(&name, TWO_EACH, &fields).finish();
    stage.assert_whole(&name, &finished, &["n0", "n1"]);
    let incidents = incidents(&stage.place.path(&name));
    assert_eq!(incidents.len(), 1, "{name}: {incidents:#?}");
    assert_eq!(incidents[0]["rank"], 2, "{name}: {:#}", incidents[0]);
    assert!(verdict(&incidents[0]).contains(doing), "{name}: no {doing:?} in {}", verdict(&incidents[0]));
    assert_eq!(incidents[0]["group"]["processes_left"], 0, "{name}");
}

#[test]
fn a_run_survives_a_rank_killed_in_an_exchange_or_a_save() {
    let Some(stage) = Stage::new(2, 4, STEPS) else { return };
    for (phase, doing) in [PHASES[3], PHASES[5]] {
        struck_in(&stage, "kill_rank", phase, doing);
    }
}

#[test]
#[ignore = "minutes: make chaos"]
fn a_run_survives_ranks_that_die_or_hang_in_every_phase() {
    let Some(stage) = Stage::new(2, 4, STEPS) else { return };
    for (phase, doing) in PHASES {
        for fault in ["kill_rank", "segv_rank", "stop_rank", "hang_rank"] {
            struck_in(&stage, fault, phase, doing);
        }
    }
}

#[test]
#[ignore = "minutes: make chaos"]
fn a_run_survives_a_storm_of_incidents() {
    let wanted = std::env::var("CHAOS_INCIDENTS").ok().and_then(|text| text.parse().ok());
    storm::run_until(wanted.unwrap_or(200));
}

#[test]
fn a_run_that_cannot_start_names_the_reason() {
    let _turn = bed::turn();
    let place = Place::new();
    let config = place.path("tiny.yaml");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(launcher());
        command.arg("run").arg(&config).args(arguments);
        mpirun::run(&mut command, bed::PATIENCE)
    };
    let hosts = place.path("hosts");
    std::fs::write(&hosts, "# two\nn0 slots=2\nn1 slots=two\n").unwrap();
    let hosts = hosts.to_str().unwrap();
    let cases: [(&[&str], i32, &[&str]); 9] = [
        (&["--hostfile", hosts], 64, &["hosts:3", "two"]),
        (&["--hostfile", "/nowhere/hosts"], 64, &["/nowhere/hosts"]),
        (&["--np", "3"], 64, &["cannot be divided over 3 ranks", "[1, 2, 4, 8]"]),
        (&["--np", "2", "--set", "training.stepz=1"], 64, &["training.stepz", "steps"]),
        (&["--np", "2", "--mpirun", "/nowhere/mpirun"], 1, &["/nowhere/mpirun"]),
        (&["--np", "2", "--program", "/nowhere/admiral"], 64, &["/nowhere/admiral", "--program"]),
        (&["--np", "2", "--pass", "NO_SUCH_VARIABLE"], 64, &["NO_SUCH_VARIABLE"]),
        (&["--np", "2", "--resume", "yesterday"], 64, &["yesterday", "latest"]),
        (&["--np", "2", "--show-rank", "2"], 64, &["--show-rank 2", "0 to 1"]),
    ];
    for preflight in [false, true] {
        for (arguments, code, parts) in cases {
            let all: Vec<&str> = arguments.iter().copied().chain((!preflight).then_some("--no-preflight")).collect();
            let finished = run(&all);
            let errors = runs::errors(&finished);
            assert_eq!((finished.code, errors.len()), (Some(code), 1), "{all:?}: {}", finished.stderr);
            for part in parts {
                assert!(errors[0].contains(part), "{all:?}: no {part:?} in {}", errors[0]);
            }
            assert!(!place.path("run").exists(), "{all:?} left something");
        }
    }
}

#[test]
fn the_error_of_mpirun_is_quoted() {
    let _turn = bed::turn();
    let place = Place::new();
    let mut command = Command::new(launcher());
    // `ls` refuses mpirun's options with an error.
    command.arg("run").arg(place.path("tiny.yaml")).args(["--mpirun", "/bin/ls"]);
    command.args(["--np", "2", "--no-preflight", "--max-restarts", "0"]);
    command.arg("--set").arg(format!("run.folder={}", place.path("run").display()));
    let finished = mpirun::run(&mut command, bed::PATIENCE);
    let incidents = incidents(&place.path("run"));
    assert_eq!((finished.code, incidents.len()), (Some(1), 1), "{}", finished.stderr);
    assert_eq!(verdict(&incidents[0]), "mpirun ended before 2 of 2 ranks had come up");
    let said = incidents[0]["last_lines"][0].as_str().unwrap();
    assert!(said.contains("--host"), "{said}");
    assert!(finished.stderr.contains("mpirun said:\n"), "{}", finished.stderr);
    assert!(finished.stderr.contains(said), "{}", finished.stderr);
}

/// Exhaustive tests.
mod long {
    use super::*;

    #[test]
    #[ignore = "long: make test-long"]
    fn exit_codes_of_ranks_decide_between_restart_and_stop() {
        let Some(stage) = Stage::new(2, 2, STEPS) else { return };
        let leaves = |rank: usize, code: u8, name: &str| {
            let fault = [
                "faults.enabled=true".to_owned(),
                "faults.at_step=30".into(),
                format!("faults.exit_rank={rank}"),
                format!("faults.exit_code={code}"),
            ];
            let fault: Vec<&str> = fault.iter().flat_map(|field| ["--set", field]).collect();
            let finished = stage.launch(name, ONE_EACH, &fault).finish();
            stage.bed.assert_empty(&["n0", "n1"]);
            (finished, incidents(&stage.place.path(name)))
        };
        for code in [64, 65, 70] {
            let (finished, incidents) = leaves(1, code, &format!("exit-{code}"));
            assert_eq!(finished.code, Some(i32::from(code)), "{}", finished.stderr);
            assert_eq!((&incidents[0]["exit_code"], &incidents[0]["rank"]), (&code.into(), &1.into()));
        }
        for code in [1, 69] {
            let name = format!("exit-{code}");
            let (finished, incidents) = leaves(1, code, &name);
            stage.assert_whole(&name, &finished, &["n0", "n1"]);
            assert_eq!(incidents.len(), 1);
            assert_eq!(incidents[0]["exit_code"], code);
        }
        let (finished, incidents) = leaves(0, 74, "exit-74");
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(incidents[0]["action"].as_str().unwrap().contains("n0 is left out"), "{:#}", incidents[0]);
    }
}
