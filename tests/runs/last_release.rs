//! Checkpoints that the last release wrote (`tests/checkpoints`): this program verifies, shows, resumes and samples
//! them.

use std::path::Path;
use std::process::Command;

use admiral::run_config::RunConfig;
use serde_json::Value;

use crate::mpirun::{Finished, run};
use crate::runs::{PATIENCE, Place, errors};
use crate::s3::python;
use crate::stores::{in_folder, verified_steps};

/// A checkpoint of step 1, in the folder of a run.
struct Old {
    place: Place,
}

impl Old {
    /// Unpacks `tests/checkpoints/KIND.tar.xz`.
    fn unpack(kind: &str) -> Self {
        let place = Place::new();
        let checkpoints = place.path("run/checkpoints");
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/checkpoints/{kind}.tar.xz"));
        let output =
            Command::new(python()).args(["-m", "tarfile", "-e"]).arg(archive).arg(checkpoints).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { place }
    }

    /// Runs this program in the folder that has the images.
    fn admiral(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
        run(command.args(arguments).current_dir(self.place.folder.path()), PATIENCE)
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let finished = self.admiral(arguments);
        assert_eq!(finished.code, Some(0), "{arguments:?}: {}{}", finished.stdout, finished.stderr);
        finished.stdout
    }

    fn manifest(&self, step: u64) -> Value {
        let path = self.place.path(&format!("run/checkpoints/step-{step:09}/manifest.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}

/// Reads a checkpoint with every command, continues its run by one step, and returns the old and the new manifest.
fn is_read_and_resumed(old: &Old, task: &str) -> [Value; 2] {
    let before = old.manifest(1);
    old.succeeds(&["checkpoint", "verify", "run", "--all"]);
    let shown: Value = serde_json::from_str(&old.succeeds(&["checkpoint", "show", "run", "--json"])).unwrap();
    assert_eq!((&shown["manifest"], &before["task"]), (&before, &task.into()));

    // The configuration of the checkpoint is still one that trains.
    std::fs::write(old.place.path("old.yaml"), old.succeeds(&["checkpoint", "show", "run", "--config"])).unwrap();
    let resumed = old.admiral(&[
        "train",
        "old.yaml",
        "--set",
        "run.folder=run",
        "--set",
        "training.steps=2",
        "--resume",
        "latest",
    ]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert!(resumed.stderr.contains("training steps 1 to 2"), "{}", resumed.stderr);

    let catalog = in_folder(&old.place.path("run/checkpoints"));
    assert_eq!(verified_steps(&catalog), [1, 2]);
    let after = old.manifest(2);
    for field in ["task", "parameters", "schema_version"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    // Fields that the last release did not have get their defaults.
    let configuration = |manifest: &Value| {
        let mut configuration: RunConfig = serde_json::from_value(manifest["configuration"].clone()).unwrap();
        configuration.training.steps = 0;
        configuration
    };
    assert_eq!(configuration(&after), configuration(&before));
    assert_eq!(after["writer"]["run_id"], before["writer"]["run_id"]);
    let counts =
        |manifest: &Value| ["step", "next_sample_index", "optimizer_steps"].map(|n| manifest["training"][n].clone());
    assert_eq!(counts(&before), [1, 8, 1].map(Value::from));
    assert_eq!(counts(&after), [2, 16, 2].map(Value::from));
    [before, after]
}

/// Draws images from the old checkpoint.
fn is_sampled(old: &Old) {
    old.succeeds(&["sample", "run/checkpoints/step-000000001", "--out", "grid.png"]);
    let png = std::fs::read(old.place.path("grid.png")).unwrap();
    let side = |at: usize| u32::from_be_bytes([png[at], png[at + 1], png[at + 2], png[at + 3]]);
    // 2 columns and 3 rows of 8 pixels, with 2 pixels between and around them.
    assert_eq!((side(16), side(20)), (2 * 10 + 2, 3 * 10 + 2));
}

#[test]
fn a_diffusion_model_in_fp32() {
    let old = Old::unpack("diffusion-fp32");
    is_sampled(&old);
    is_read_and_resumed(&old, "diffusion");
}

#[test]
fn a_diffusion_model_in_fp16_with_a_learned_timestep_sampler() {
    let old = Old::unpack("diffusion-fp16");
    is_sampled(&old);
    let manifests = is_read_and_resumed(&old, "diffusion");
    for manifest in manifests {
        let training = &manifest["training"];
        assert!(training["lg_loss_scale"].is_f64() && training["timestep_sampler"].is_object(), "{training}");
    }
}

#[test]
fn an_upsampler() {
    let old = Old::unpack("super-resolution");
    is_sampled(&old);
    is_read_and_resumed(&old, "super_resolution");
}

#[test]
fn a_classifier() {
    let old = Old::unpack("classifier");
    let refused = old.admiral(&["sample", "run", "--out", "grid.png"]);
    assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{}", refused.stderr);
    is_read_and_resumed(&old, "classifier");
}
