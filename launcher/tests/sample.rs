//! Sampling jobs under the built launcher and the real `mpirun`, with this test's own program in the place of `admiral`: it
//! draws no images, but keeps a ledger, writes files, and fails on request.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use admiral_contract::{Ledger, Phase, environment};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(120);

/// The rank that fails in the first attempt, once it has drawn this many images.
const CULPRIT: u64 = 1;
const FAILS_AFTER: u64 = 10;

/// A program, a checkpoint that says how rank 1 fails, and a place for images.
struct Job {
    folder: tempfile::TempDir,
}

impl Job {
    fn new(fault: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("admiral");
        let script = format!(
            "#!/bin/sh\ncase \"$1\" in\n  sample) FAKE_ARGUMENTS=\"$*\" exec '{}' --exact the_program --ignored \
             --nocapture;;\n  checkpoint) echo '{{\"seconds\":0.01}}';;\n  *) exit 2;;\nesac\n",
            std::env::current_exe().unwrap().display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(folder.path().join("own")).unwrap();
        std::fs::write(folder.path().join("own/fault"), fault).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `admiral-launch sample` with two ranks, for 60 images.
    fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_admiral-launch"));
        command.args(["sample", "--np", "2", "--base-delay-seconds", "0.1", "--program"]).arg(self.path("admiral"));
        command.args(options).arg("own").args(["--num", "60", "--out", "images", "--seed", "7"]);
        command.current_dir(self.folder.path()).env("TMPDIR", self.folder.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, options: &[&str]) -> Output {
        finish(self.start(options))
    }

    fn start(&self, options: &[&str]) -> Child {
        self.command(options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn file(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }

    fn images(&self) -> usize {
        std::fs::read_dir(self.path("images")).map_or(0, Iterator::count)
    }
}

fn finish(child: Child) -> Output {
    let pid = rustix::process::Pid::from_child(&child);
    let (sender, ended) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if ended.recv_timeout(TIMEOUT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(sender);
    guard.join().unwrap();
    output
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that nobody spoke of training.
fn assert_about_images(text: &str) {
    for word in ["step", "checkpoint", "train"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
}

#[test]
fn a_killed_rank_is_replaced_and_all_images_are_drawn() {
    let job = Job::new("kill");
    let output = job.run(&["--no-preflight"]);
    let told = said(&output);
    assert_eq!((output.status.code(), job.images()), (Some(0), 60), "{told}");
    assert_about_images(&told);
    for part in ["images go to", "starts again in 0 s with 2 ranks, which draw what is missing", "draws again after"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let failure = job.file("images-launch/failure.json");
    let verdict = failure["verdict"].as_str().unwrap();
    assert!(verdict.starts_with("rank 1 (localhost"), "{verdict}");
    assert!(verdict.contains("was killed by signal 9"), "{verdict}");
    assert!(verdict.ends_with("after 10 images, drawing samples"), "{verdict}");
    assert_eq!((&failure["kind"], &failure["rank"]), (&"sample".into(), &1.into()), "{failure:#}");
    let state = job.file("images-launch/launch/state.json");
    assert_eq!((&state["kind"], &state["restarts"]), (&"sample".into(), &1.into()), "{state:#}");
    assert_eq!((&state["step"], &state["last_step"], &state["exit_code"]), (&60.into(), &60.into(), &0.into()));
    assert!(job.path("images-launch/launch/attempt-001/rank-001.log").is_file());

    let mut status = Command::new(env!("CARGO_BIN_EXE_admiral-launch"));
    let output = status.arg("status").arg(job.path("images-launch")).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("images           60 of 60"), "{shown}");
    assert_about_images(&shown);
}

#[test]
fn a_rank_that_hangs_is_named_with_its_images() {
    let job = Job::new("hang");
    let output = job.run(&["--no-preflight", "--stall-seconds", "5"]);
    let told = said(&output);
    assert_eq!((output.status.code(), job.images()), (Some(0), 60), "{told}");
    assert_about_images(&told);
    let failure = job.file("images-launch/failure.json");
    let verdict = failure["verdict"].as_str().unwrap();
    assert!(verdict.contains("stands still after 10 images; it has been drawing samples for"), "{verdict}");
    assert_eq!(failure["rank"], 1, "{verdict}");
}

#[test]
fn a_stopped_job_keeps_its_images_and_the_same_command_draws_the_others() {
    let job = Job::new("none");
    let launcher = job.start(&["--no-preflight"]);
    let end = Instant::now() + TIMEOUT;
    while job.images() < 4 {
        assert!(Instant::now() < end, "no image came");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_child(&launcher);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let stopped = finish(launcher);
    let told = said(&stopped);
    assert_eq!(stopped.status.code(), Some(75), "{told}");
    assert!(told.contains("it was stopped; the images that are stored are kept"), "{told}");
    assert_about_images(&told);
    assert!(!job.path("images-launch/failure.json").exists(), "{told}");
    let kept = job.images();
    assert!((4..60).contains(&kept), "{kept} images");
    let finished = job.run(&["--no-preflight"]);
    assert_eq!((finished.status.code(), job.images()), (Some(0), 60), "{}", said(&finished));
}

#[test]
fn wrong_input_is_not_tried_again() {
    let job = Job::new("refuse");
    let output = job.run(&["--no-preflight"]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(told.contains("gives up (64): the options or the model is wrong"), "{told}");
    assert_about_images(&told);
}

#[test]
fn the_hosts_of_a_job_are_examined_with_the_place_of_its_images() {
    let job = Job::new("none");
    let output = job.run(&["--doctor"]);
    let told = format!("{}{}", said(&output), String::from_utf8_lossy(&output.stdout));
    let receipt = job.file("images-launch/launch/receipt.json");
    assert_eq!(receipt["hosts"][0]["report"]["store_seconds"], 0.01, "{receipt:#}\n{told}");
    std::fs::remove_dir_all(job.path("own")).unwrap();
    let output = job.run(&["--doctor"]);
    let told = format!("{}{}", said(&output), String::from_utf8_lossy(&output.stdout));
    assert_eq!((output.status.code(), job.images()), (Some(74), 0), "{told}");
    assert!(told.contains("own is not there") && told.contains("copy it there"), "{told}");
}

#[test]
fn a_dry_run_shows_the_command_of_the_ranks() {
    let job = Job::new("none");
    let output = job.run(&["--dry-run"]);
    let shown = String::from_utf8(output.stdout.clone()).unwrap();
    let folder = job.folder.path().display();
    let command = format!("{folder}/admiral sample {folder}/own --num 60 --out {folder}/images --seed 7");
    assert!(shown.contains(&command) && shown.contains("from --stall-seconds"), "{shown}{}", said(&output));
    assert!(!job.path("images-launch").exists());
}

#[test]
fn a_mistyped_webhook_is_refused_and_nothing_is_written() {
    let job = Job::new("none");
    for options in
        [["--no-preflight", "--notify", "ftp://example.org/hush"], ["--dry-run", "--notify", "ntfy://hush/x"]]
    {
        let output = job.run(&options);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(64), "{told}");
        assert!(told.contains("begins with https:// or http://") && !told.contains("hush"), "{told}");
        assert!(!job.path("images-launch").exists() && job.images() == 0, "{told}");
    }
}

/// The program that the launcher starts instead of `admiral`.
#[test]
#[ignore = "it is no test; the launcher starts it"]
fn the_program() {
    let Ok(arguments) = std::env::var("FAKE_ARGUMENTS") else { return };
    let words: Vec<&str> = arguments.split(' ').collect();
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (rank, world) = (number("OMPI_COMM_WORLD_RANK"), number("OMPI_COMM_WORLD_SIZE"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let path = std::env::var(environment::LEDGER).unwrap();
    let (ledger, error) = Ledger::open_or_private(Some(Path::new(&path)));
    assert!(error.is_none(), "{error:?}");
    let fault = std::fs::read_to_string(Path::new(words[1]).join("fault")).unwrap();
    let fault = if rank == CULPRIT && number(environment::ATTEMPT) == 0 { fault } else { String::new() };
    std::process::exit(runtime.block_on(draw(&ledger, &fault, rank, world, words[3].parse().unwrap(), words[5])));
}

/// Draws every image of a share that is not there. Returns the exit code.
async fn draw(ledger: &Ledger, fault: &str, rank: u64, world: u64, num: u64, out: &str) -> i32 {
    if fault == "refuse" {
        return 64;
    }
    let mut asked = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    std::fs::create_dir_all(out).unwrap();
    let share: Vec<PathBuf> = (rank..num).step_by(world as usize).map(|i| Path::new(out).join(i.to_string())).collect();
    let missing: Vec<&PathBuf> = share.iter().filter(|path| !path.exists()).collect();
    let mut done = (share.len() - missing.len()) as u64;
    ledger.begin(done, share.len() as u64, 0);
    for path in missing {
        ledger.begin_step(done);
        ledger.enter(Phase::Sample, 0);
        if done == FAILS_AFTER && fault == "kill" {
            // The launcher sees the ledger at the next heartbeat.
            let own = rustix::process::getpid();
            tokio::time::sleep(Duration::from_secs(1)).await;
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        }
        let time = if done == FAILS_AFTER && fault == "hang" { TIMEOUT } else { Duration::from_millis(100) };
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            _ = asked.recv() => return 75,
        }
        std::fs::write(path, "an image").unwrap();
        done += 1;
        ledger.end_step();
    }
    ledger.begin(done, share.len() as u64, 0);
    ledger.enter(Phase::End, 0);
    0
}
