//! A file system, a terminal or a launcher that stands still does not end a run.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bed::{self, Bed, Launch, incidents, launcher, signal};
use crate::mpirun::Finished;
use crate::runs::{Place, wait_until};
use crate::stage::{STANDSTILL, verdict};

/// Longer than the agents and the launcher wait for each other.
const SHORT: Duration = Duration::from_secs(10);
/// As long as a file system that fails over.
const LONG: Duration = Duration::from_secs(60);

/// A run of two ranks without an end, on `hosts` or on this host alone.
fn endless(mut command: Command, place: &Place, hosts: &[&str]) -> Command {
    command.arg("run").arg(place.path("tiny.yaml")).args(hosts).args(["--np", "2", "--no-preflight"]);
    command.args(["--set", "training.steps=1000000", "--set", "training.save_interval=1000000"]);
    command.args(["--set", "launch.stall_seconds=120", "--base-delay-seconds", "0.1"]);
    command.arg("--set").arg(format!("run.folder={}", place.path("run").display()));
    command.env("OMPI_MCA_mpi_yield_when_idle", "1");
    command
}

/// Stops a run, and checks that it had no incident.
fn assert_undisturbed(launch: Launch, place: &Place) -> Finished {
    launch.running.signal(libc::SIGTERM);
    let finished = launch.finish();
    assert_eq!(finished.code, Some(75), "{}\n{}", finished.stdout, finished.stderr);
    assert_eq!(incidents(&place.path("run")).len(), 0, "{}", finished.stderr);
    finished
}

/// Waits until the launcher has seen a later step than `step`.
fn assert_continues(launch: &Launch, step: u64) {
    let state = launch.wait_for(0, step + 1);
    assert_eq!(state["restarts"], 0, "{state:#}");
}

fn survives_a_frozen_folder(duration: Duration) {
    let _turn = bed::turn();
    let place = Place::new();
    let flag = place.path("frozen");
    let mut command = endless(Command::new(launcher()), &place, &[]);
    command.env("LD_PRELOAD", place.frozen_disk()).env("FROZEN_PROGRAM", "admiral-launch");
    command.env("FROZEN_FLAG", &flag).env("FROZEN_FOLDER", place.path("run"));
    let launch = Launch::start(&mut command, place.path("run"));
    launch.wait_for(0, 5);
    std::fs::write(&flag, "").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let frozen = launch.state().unwrap();
    std::thread::sleep(duration);
    assert_eq!(launch.state().unwrap()["updated"], frozen["updated"], "the folder is not frozen");
    std::fs::remove_file(&flag).unwrap();
    assert_continues(&launch, frozen["step"].as_u64().unwrap());
    let finished = assert_undisturbed(launch, &place);
    assert!(finished.stderr.contains("the file system has not answered for 5 s"), "{}", finished.stderr);
    let log = std::fs::read_to_string(place.path("run/launch/attempt-000/rank-000.log")).unwrap();
    assert!(log.contains("training steps 0 to"), "{log}");
}

/// A child that is killed on drop, if it still runs.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn survives_a_terminal_that_takes_nothing(duration: Duration) {
    let _turn = bed::turn();
    let place = Place::new();
    let mut command = endless(Command::new(launcher()), &place, &["--show-rank", "all"]);
    command.args(["--set", "training.log_interval=1", "--set", "launch.stall_seconds=120"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Killed(command.spawn().unwrap());
    let (mut stdout, mut stderr) = (child.0.stdout.take().unwrap(), child.0.stderr.take().unwrap());
    // A small pipe is full within a second.
    for pipe in [stdout.as_fd(), stderr.as_fd()] {
        // SAFETY: no precondition.
        assert!(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) } >= 4096);
    }
    let state = || -> serde_json::Value {
        std::fs::read(place.path("run/launch/state.json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    };
    let end = Instant::now() + bed::PATIENCE;
    while state()["step"].as_u64().unwrap_or(0) < 5 {
        assert!(Instant::now() < end, "no step: {:#}", state());
        std::thread::sleep(Duration::from_millis(50));
    }
    let before = state()["step"].as_u64().unwrap();
    std::thread::sleep(duration);
    let after = state();
    assert!(after["step"].as_u64().unwrap() > before + 5, "the run stands still: {after:#}");
    assert_eq!((&after["restarts"], incidents(&place.path("run")).len()), (&0.into(), 0), "{after:#}");
    signal(i32::try_from(child.0.id()).unwrap(), libc::SIGTERM);
    let text = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    let mut shown = String::new();
    stdout.read_to_string(&mut shown).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(75), "{}", text.join().unwrap());
    assert!(shown.contains("[rank 1]"), "{shown}");
}

fn survives_a_stopped_launcher(duration: Duration) {
    let Some(bed) = Bed::new(2) else { return };
    let place = Place::new();
    let mut command = endless(bed.launcher("n0"), &place, &["--hosts", "n0:1,n1:1"]);
    let launch = Launch::start(&mut command, place.path("run"));
    let before = launch.wait_for(0, 5);
    launch.running.signal(libc::SIGSTOP);
    std::thread::sleep(duration);
    launch.running.signal(libc::SIGCONT);
    // The ranks have trained meanwhile, on both hosts.
    assert_continues(&launch, before["step"].as_u64().unwrap() + 20);
    assert_undisturbed(launch, &place);
    bed.assert_empty(&["n0", "n1"]);
}

#[test]
fn the_image_that_a_disk_does_not_give_is_named() {
    let _turn = bed::turn();
    let place = Place::new();
    let pictures = place.path("pictures");
    std::fs::create_dir(&pictures).unwrap();
    for name in ["a_0.png", "b_1.png", "c_2.png"] {
        let encoder = image::codecs::png::PngEncoder::new(std::fs::File::create(pictures.join(name)).unwrap());
        image::ImageEncoder::write_image(encoder, &[90; 64], 8, 8, image::ExtendedColorType::L8).unwrap();
    }
    let mut command = endless(Command::new(launcher()), &place, &[]);
    command.args(["--set", "data.source=folder", "--set", "data.classes=file_name", "--set", "data.label_path=null"]);
    command.arg("--set").arg(format!("data.path={}", pictures.display()));
    command.args(STANDSTILL);
    let flag = place.path("frozen");
    command.env("LD_PRELOAD", place.frozen_disk()).env("FROZEN_PROGRAM", "admiral");
    command.env("FROZEN_FLAG", &flag).env("FROZEN_FOLDER", &pictures);
    let launch = Launch::start(&mut command, place.path("run"));
    launch.wait_for(0, 5);
    std::fs::write(&flag, "").unwrap();
    wait_until("the standstill is found", || !incidents(&place.path("run")).is_empty());
    std::fs::remove_file(&flag).unwrap();
    let incident = &incidents(&place.path("run"))[0];
    assert!(verdict(incident).contains(&format!("{}/", pictures.display())), "{incident:#}");
    launch.wait_for(1, 5);
    launch.running.signal(libc::SIGTERM);
    let finished = launch.finish();
    assert_eq!(finished.code, Some(75), "{}", finished.stderr);
}

#[test]
fn a_run_survives_a_frozen_folder() {
    survives_a_frozen_folder(SHORT);
}

#[test]
fn a_run_survives_a_terminal_that_takes_nothing() {
    survives_a_terminal_that_takes_nothing(SHORT);
}

#[test]
fn a_run_survives_a_stopped_launcher() {
    survives_a_stopped_launcher(SHORT);
}

#[test]
#[ignore = "minutes: make chaos"]
fn a_run_survives_a_minute_of_each_standstill() {
    survives_a_frozen_folder(LONG);
    survives_a_terminal_that_takes_nothing(LONG);
    survives_a_stopped_launcher(LONG);
}
