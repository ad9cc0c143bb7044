//! Reading checkpoints in Python: the three lines of `docs/checkpoints.md`, and the JSON Schemas.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use admiral::model::{ModelConfig, Network, Task};
use admiral_checkpoint::{Content, Parameter, Role, TensorView, TrainingState, Writer, save};
use admiral_comm::Single;
use admiral_storage::{Location, Store, StoreOptions};

use crate::runs::Place;
use crate::s3::python;

const ARCHITECTURE: &str = "128x128_classifier";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The code of the section "In Python" in `docs/checkpoints.md`.
fn lines_of_the_page() -> String {
    let page = std::fs::read_to_string(root().join("docs/checkpoints.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("In Python\n")).unwrap();
    section.split("```python\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

/// Writes a checkpoint of a released architecture for the example. Each tensor is filled with its index plus 1.
fn write_example(folder: &Path) {
    let config = ModelConfig {
        image_size: 128,
        num_classes: Some(1000),
        num_channels: 128,
        num_res_blocks: 2,
        num_head_channels: Some(64),
        attention_resolutions: vec![32, 16, 8],
        ..ModelConfig::default()
    };
    let (_, specs) = Network::build(&config.spec(Task::Classifier, false).unwrap());
    let parameters: Vec<Parameter> = specs
        .iter()
        .map(|spec| Parameter {
            name: spec.name.clone(),
            shape: spec.shape.iter().map(|&n| usize::try_from(n).unwrap()).collect(),
        })
        .collect();
    let values: HashMap<&str, Vec<f32>> = parameters
        .iter()
        .enumerate()
        .map(|(place, p)| (p.name.as_str(), vec![place as f32 + 1.0; p.num_elements().unwrap()]))
        .collect();
    let views: Vec<TensorView> = parameters
        .iter()
        .map(|Parameter { name, shape }| TensorView {
            role: Role::Ema { rate: 0.9999 },
            name,
            shape,
            values: &values[name.as_str()],
        })
        .collect();
    let content = Content {
        writer: Writer {
            run_id: "r".into(),
            attempt_id: "a".into(),
            host: "node0".into(),
            started: "2021-05-11T00:00:00Z".into(),
        },
        task: "classifier".into(),
        configuration: serde_json::json!({}),
        training: TrainingState {
            step: 5000,
            next_sample_index: 1_280_000,
            optimizer_steps: 5000,
            lg_loss_scale: None,
            timestep_sampler: None,
            images: None,
        },
        parameters: Arc::new(parameters.clone()),
    };
    let store =
        Store::create(&Location::Folder(folder.join("runs/own/checkpoints")), &StoreOptions::default()).unwrap();
    save(&store, &Single, &content, &views).unwrap();
}

#[test]
fn the_documented_lines_read_the_averages_of_a_released_architecture() {
    let lines = lines_of_the_page();
    assert_eq!(lines.lines().count(), 3, "{lines}");
    let folder = tempfile::tempdir().unwrap();
    write_example(folder.path());
    let check = std::fs::read_to_string(root().join("tests/support/three_lines.py")).unwrap();
    std::fs::write(folder.path().join("lines.py"), lines + &check).unwrap();
    let golden = std::env::var_os("ADMIRAL_GOLDEN_DIR").map_or_else(|| root().join("tests/golden"), Into::into);
    let output = Command::new(python())
        .arg("lines.py")
        .arg(golden.join("architectures.json"))
        .arg(ARCHITECTURE)
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "221 tensors, 42568040 values\n");
}

#[test]
fn files_of_a_run_are_valid_under_the_schemas() {
    let place = Place::new();
    place.trained(2, "run", &[]);
    let checkpoints = place.path("run/checkpoints");
    let output = Command::new(python())
        .arg(root().join("tests/support/schemas.py"))
        .arg(root().join("checkpoints-schema/schema"))
        .args(["step-000000020/manifest.json", "latest.json", "owner.json"].map(|file| checkpoints.join(file)))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.trim() == "valid", "{text}");
}
