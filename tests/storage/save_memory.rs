//! The host memory that a save takes, measured on the real program.

use std::process::Command;

/// The largest memory of a save as a part of the rank's share. The rest is for headers, requests and stacks of threads.
const MOST_OF_SHARE: f64 = 1.1;

#[test]
fn a_save_takes_little_more_memory_than_the_share_of_the_rank() {
    let root = env!("CARGO_MANIFEST_DIR");
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_admiral"))
        .args(["bench", "checkpoint", "--saves", "2", "--json", "--set", "run.device=cpu"])
        .args(["--config", &format!("{root}/configs/classifier-128.yaml")])
        .args(["--set", &format!("run.folder={}", folder.path().display())])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let share = measured["share_bytes"].as_u64().unwrap();
    // Masters, two moments and one average. The only rank writes all of them.
    assert_eq!(share, 4 * 4 * measured["parameters"].as_u64().unwrap());
    let part = measured["extra_memory_of_share"].as_f64().unwrap();
    assert!(part > 0.9 && part <= MOST_OF_SHARE, "{part} of the share: {measured}");
    assert_eq!(
        std::fs::read_dir(folder.path().join("bench-checkpoint")).unwrap().count(),
        0,
        "the benchmark removes its checkpoints"
    );
}
