//! `admiral-launch drill` with each fault once: it passes, names the fault, and reports what it cost. Also
//! `admiral-launch status` during a run.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bed::{self, Bed, Launch, launcher};
use crate::mpirun::{self, Finished, Running};
use crate::runs::Place;

/// Runs a drill of four ranks on two hosts. Returns its report.
fn drill(bed: &Bed, place: &Place, hosts: &str, harm: &[&str], steps: u64) -> Value {
    let steps = steps.to_string();
    let mut command = bed.launcher("n0");
    command.arg("drill").arg(place.path("tiny.yaml")).args(["--hosts", hosts, "--np", "4", "--no-preflight", "--json"]);
    command.args(["--at-step", "10", "--steps", &steps, "--base-delay-seconds", "0.1", "--show-rank", "none"]);
    // The time after which a silent host counts as lost depends on this value. Longer is safer on a busy machine.
    let stall = if harm.contains(&"--hang-rank") { 6 } else { 120 };
    command.arg("--set").arg(format!("launch.stall_seconds={stall}")).args(harm);
    let finished = mpirun::run(&mut command, bed::PATIENCE);
    let report: Value = serde_json::from_str(&finished.stdout)
        .unwrap_or_else(|error| panic!("{harm:?}: {error}: {}\n{}", finished.stdout, finished.stderr));
    assert_eq!(
        (finished.code, &report["passed"]),
        (Some(0), &true.into()),
        "{harm:?}: {report:#}\n{}",
        finished.stderr
    );
    // Processes on a host that the drill disconnected end later, on their own.
    bed.assert_empty(if harm.contains(&"--drop-host") { &["n0", "n2"] } else { &["n0", "n1"] });
    report
}

fn verdict(report: &Value) -> &str {
    report["verdict"].as_str().unwrap()
}

/// Two hosts with two ranks each.
const TWO_EACH: &str = "n0:2,n1:2";

#[test]
fn a_drill_that_kills_a_rank_passes_and_reports_its_cost() {
    let Some(bed) = Bed::new(2) else { return };
    let report = drill(&bed, &Place::new(), TWO_EACH, &["--kill-rank", "3"], 30);
    assert!(verdict(&report).starts_with("rank 3 (n1) was killed by signal 9"), "{report:#}");
    for seconds in ["seconds_to_detect", "seconds_to_group_down", "seconds_to_first_step"] {
        assert!(report[seconds].as_f64().is_some_and(|seconds| seconds >= 0.0), "no {seconds}: {report:#}");
    }
    assert!(report["steps_lost"].as_u64().is_some_and(|steps| steps <= 10), "{report:#}");
}

#[test]
fn a_drill_that_drops_a_host_passes() {
    let Some(bed) = Bed::new(3) else { return };
    let report = drill(&bed, &Place::new(), "n0:2,n1:2,n2:2", &["--drop-host", "n1"], 60);
    assert!(verdict(&report).contains("n1"), "{report:#}");
}

#[test]
fn a_drill_that_flips_a_bit_passes_and_names_the_rank() {
    let Some(bed) = Bed::new(2) else { return };
    let report = drill(&bed, &Place::new(), TWO_EACH, &["--flip-bit", "2"], 30);
    assert!(verdict(&report).starts_with("rank 2 (n1) exited with code 76"), "{report:#}");
    assert!(report["steps_lost"].as_u64().is_some_and(|steps| steps <= 10), "{report:#}");
}

#[test]
fn an_impossible_drill_is_refused() {
    let place = Place::new();
    let refused = |arguments: &[&str]| {
        let mut command = Command::new(launcher());
        command.arg("drill").arg(place.path("tiny.yaml")).args(["--np", "2", "--no-preflight"]).args(arguments);
        mpirun::run(&mut command, bed::PATIENCE)
    };
    for (arguments, word) in [
        (&["--kill-rank", "2"][..], "there is no rank 2"),
        (&["--drop-host", "n7"], "no such host"),
        (&["--flip-bit", "1"], "needs at least 3 ranks"),
        (&["--kill-rank", "0", "--phase", "lunch"], "faults.phase"),
    ] {
        let finished: Finished = refused(arguments);
        assert_eq!(finished.code, Some(64), "{arguments:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(word), "{arguments:?}: {}", finished.stderr);
        assert!(!place.path("run").exists(), "{arguments:?} left something");
    }
    assert_ne!(refused(&[]).code, Some(0), "a drill that harms nothing");
    let shown = refused(&["--kill-rank", "1", "--at-step", "40", "--dry-run"]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert!(shown.stdout.contains("--set faults.kill_rank=1 ") && shown.stdout.contains("training.steps=80"));
    assert!(!place.path("run").exists(), "a drill that is only shown left something");
}

#[test]
fn status_follows_a_run_and_a_second_ctrl_c_ends_it_at_once() {
    let _turn = bed::turn();
    let place = Place::new();
    let run = place.path("run");
    let mut command = Command::new(launcher());
    command.arg("run").arg(place.path("tiny.yaml")).args(["--np", "2", "--no-preflight"]);
    command.args(["--set", "training.steps=100000", "--set", "training.log_interval=1000"]);
    command.env("OMPI_MCA_mpi_yield_when_idle", "1");
    let launch = Launch::start(&mut command, run.clone());
    let is_rated = |state: &Value| state["images_per_second"].as_f64().is_some_and(|rate| rate > 0.0);
    launch.wait_for(0, 5);
    let end = Instant::now() + bed::PATIENCE;
    while !launch.state().as_ref().is_some_and(is_rated) {
        assert!(Instant::now() < end, "no rate: {:?}", launch.state());
        std::thread::sleep(Duration::from_millis(200));
    }

    let status = |more: &[&str]| {
        let mut command = Command::new(launcher());
        command.arg("status").arg(&run).args(more);
        mpirun::run(&mut command, bed::PATIENCE)
    };
    let shown = status(&[]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    for word in ["training", "of 100000", "images/s"] {
        assert!(shown.stdout.contains(word), "no {word:?} in {}", shown.stdout);
    }
    let state: Value = serde_json::from_str(&status(&["--json"]).stdout).unwrap();
    assert_eq!(state["last_step"], 100_000);

    // `status --watch` shows the end of the run.
    let mut watch = Command::new(launcher());
    watch.arg("status").arg(&run).arg("--watch");
    let watch = Running::start(&mut watch);

    // A stopped rank does not react to the first Ctrl-C. The second one does not wait for it.
    let stopped = bed::pid_of(&launch.state().unwrap(), 1);
    bed::signal(stopped, libc::SIGSTOP);
    launch.running.signal(libc::SIGINT);
    std::thread::sleep(Duration::from_secs(1));
    let asked = Instant::now();
    launch.running.signal(libc::SIGINT);
    let finished = launch.finish();
    assert_ne!(finished.code, Some(0), "{}", finished.stderr);
    eprintln!("gone {:.1} s after the second signal", asked.elapsed().as_secs_f64());
    assert!(!std::path::Path::new(&format!("/proc/{stopped}")).exists(), "rank 1 is left");
    let watched = watch.finish(bed::PATIENCE);
    assert!(!watched.timed_out && watched.stdout.contains("ended"), "{}", watched.stdout);
}

/// Exhaustive tests.
mod long {
    use super::*;

    #[test]
    #[ignore = "long: make test-long"]
    fn a_drill_that_hangs_a_rank_passes() {
        let Some(bed) = Bed::new(2) else { return };
        let report = drill(&bed, &Place::new(), TWO_EACH, &["--hang-rank", "2", "--phase", "reduce"], 30);
        assert!(verdict(&report).starts_with("rank 2 (n1) "), "{report:#}");
        assert!(verdict(&report).contains("3 ranks wait for it"), "{report:#}");
    }

    #[test]
    #[ignore = "long: make test-long"]
    fn a_drill_that_slows_a_rank_passes() {
        let Some(bed) = Bed::new(2) else { return };
        // Slow for long enough that three checks in a row see it.
        let report = drill(&bed, &Place::new(), TWO_EACH, &["--slow-rank", "1"], 200);
        assert!(verdict(&report).starts_with("rank 1 (n0) is slow"), "{report:#}");
    }

    #[test]
    #[ignore = "long: make test-long"]
    fn a_drill_that_cuts_off_the_storage_passes() {
        let Some(bed) = Bed::new(2) else { return };
        let report = drill(&bed, &Place::new(), TWO_EACH, &["--cut-storage", "3"], 60);
        assert!(verdict(&report).contains("the storage is cut off"), "{report:#}");
    }
}
