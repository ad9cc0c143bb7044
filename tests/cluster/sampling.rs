//! Sampling jobs under the launcher: a killed rank is restarted, and the job draws the same images as alone.

use std::process::Command;

use crate::bed::{self, Bed, Launch, incidents, pid_of, signal};
use crate::mpirun::run;
use crate::runs::Place;

/// Enough images and steps that the job lasts for several of the launcher's reports, which come once a second.
const JOB: [&str; 10] =
    ["--num", "96", "--batch-size", "4", "--part-images", "4", "--sampler", "ddpm", "--respacing", "250"];

/// More threads than cores would make it slow.
const THREADS: [&str; 2] = ["--threads", "1"];

#[test]
fn a_killed_rank_of_a_job_is_restarted_and_the_job_draws_the_same_images() {
    let Some(bed) = Bed::new(2) else { return };
    let place = Place::new();
    place.trained(1, "run", &["--set", "training.steps=4", "--set", "training.save_interval=4"]);
    let mut alone = Command::new(env!("CARGO_BIN_EXE_admiral"));
    alone.arg("sample").arg(place.path("run")).arg("--out").arg(place.path("alone"));
    let finished = run(alone.args(JOB).args(THREADS), bed::PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);

    let mut command = bed.launcher("n0");
    command.args(["sample", "--hosts", "n0:1,n1:1", "--no-preflight", "--base-delay-seconds", "0.1"]);
    command.arg(place.path("run")).arg("--out").arg(place.path("launched")).args(JOB).args(THREADS);
    let launch = Launch::start(&mut command, place.path("launched-launch"));
    let state = launch.wait_for_condition("sampling", 0, 1);
    signal(pid_of(&state, 1), libc::SIGKILL);
    let finished = launch.finish();
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stdout, finished.stderr);
    bed.assert_empty(&["n0", "n1"]);

    let incidents = incidents(&place.path("launched-launch"));
    assert_eq!(incidents.len(), 1, "{incidents:#?}");
    let verdict = incidents[0]["verdict"].as_str().unwrap();
    assert!(verdict.starts_with("rank 1 (n1) was killed by signal 9"), "{verdict}");
    assert!(!finished.stderr.contains("checkpoint"), "{}", finished.stderr);
    let read = |out: &str| std::fs::read(place.path(out).join("samples_96x8x8x1.npz")).unwrap();
    assert!(read("launched") == read("alone"), "the launched job drew other images");
}
