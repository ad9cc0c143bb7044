//! Event files, read by TensorBoard itself.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use admiral_telemetry::{ChartGroup, Grid, Hyperparameter, TensorBoard};

const LONG: Duration = Duration::from_secs(3600);
const LIMIT: Duration = Duration::from_secs(30);

/// A Python program that prints the events of a folder, as TensorBoard and Pillow read them.
const READER: &str = r#"
import io, json, sys
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
keep_all = {"scalars": 0, "images": 0, "tensors": 0}
events = event_accumulator.EventAccumulator(sys.argv[1], size_guidance=keep_all)
events.Reload()
def picture(event):
    decoded = Image.open(io.BytesIO(event.encoded_image_string))
    return {"step": event.step, "width": event.width, "height": event.height, "mode": decoded.mode,
            "size": list(decoded.size), "pixels": list(decoded.tobytes())}
tags = events.Tags()
dashboards = plugin_event_accumulator.EventAccumulator(sys.argv[1])
dashboards.Reload()
print(json.dumps({
    "scalars": {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags["scalars"]},
    "images": {tag: [picture(e) for e in events.Images(tag)] for tag in tags["images"]},
    "texts": {tag: [e.tensor_proto.string_val[0].decode() for e in events.Tensors(tag)] for tag in tags["tensors"]},
    "dashboards": {name: sorted(dashboards.PluginTagToContent(name)) for name in dashboards.ActivePlugins()},
}))
"#;

fn read_back(folder: &Path) -> serde_json::Value {
    read_with(READER, folder)
}

fn read_with(reader: &str, folder: &Path) -> serde_json::Value {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/venv/bin/python");
    assert!(python.exists(), "{} is missing: run ci/setup test", python.display());
    let output = Command::new(python).args(["-c", reader]).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn tensorboard_reads_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let pixels: Vec<u8> = (0..2 * 3 * 3).map(|i| 14 * i as u8).collect();
    let board = TensorBoard::open(folder.path(), 1, LONG);
    for step in 1..=200 {
        board.scalar("loss", step, 1.0 / step as f64);
    }
    board.scalar("samples", 200, 3_000_000.0);
    board.image("samples", 200, Grid::of(&pixels, [2, 3, 3], 1, 0).unwrap());
    board.image("gray", 200, Grid::of(&[7, 200], [1, 2, 1], 1, 0).unwrap());
    board.text("config", 0, "seed: 1 — ü");
    assert_eq!((board.errors(), board.dropped()), (0, 0));
    drop(board);

    let found = read_back(folder.path());
    let loss: Vec<(u64, f32)> = serde_json::from_value(found["scalars"]["loss"].clone()).unwrap();
    let expected: Vec<(u64, f32)> = (1..=200).map(|step| (step, (1.0 / step as f64) as f32)).collect();
    assert_eq!(loss, expected);
    assert_eq!(found["scalars"]["samples"], serde_json::json!([[200, 3_000_000.0]]));
    let picture = serde_json::json!(
        [{"step": 200, "width": 3, "height": 2, "mode": "RGB", "size": [3, 2], "pixels": pixels}]
    );
    assert_eq!(found["images"]["samples"], picture);
    assert_eq!(found["images"]["gray"][0]["mode"], "L");
    assert_eq!(found["images"]["gray"][0]["pixels"], serde_json::json!([7, 200]));
    assert_eq!(found["texts"]["config"], serde_json::json!(["seed: 1 — ü"]));
    assert_eq!(found["dashboards"]["text"], serde_json::json!(["config"]));
    assert!(found["dashboards"]["scalars"].as_array().unwrap().contains(&"loss".into()));
    assert!(found["dashboards"]["images"].as_array().unwrap().contains(&"gray".into()));
}

#[test]
fn a_resumed_run_replaces_the_events_after_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let killed = TensorBoard::open(folder.path(), 1, LONG);
    (1..=7).for_each(|step| killed.scalar("loss", step, 1.0));
    drop(killed);
    let resumed = TensorBoard::open(folder.path(), 5, LONG);
    resumed.scalar("loss", 6, 2.0);
    drop(resumed);
    let expected = serde_json::json!([[1, 1.0], [2, 1.0], [3, 1.0], [4, 1.0], [6, 2.0]]);
    assert_eq!(read_back(folder.path())["scalars"]["loss"], expected);
}

#[test]
fn an_unwritable_folder_is_retried_without_an_error() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("events");
    std::fs::write(&folder, "a file is in the way").unwrap(); // also where the tests run as root
    let board = TensorBoard::open(&folder, 1, LONG);
    board.scalar("loss", 1, 0.5);
    assert!(board.flush(LIMIT));
    let errors = board.errors();
    assert!(errors > 0);
    assert!(board.flush(LIMIT));
    assert_eq!(board.errors(), errors + 1, "each failed attempt counts");

    std::fs::remove_file(&folder).unwrap();
    board.scalar("loss", 2, 0.25);
    assert!(board.flush(LIMIT));
    assert_eq!((board.errors(), board.dropped()), (errors + 1, 0));
    assert_eq!(read_back(&folder)["scalars"]["loss"], serde_json::json!([[1, 0.5], [2, 0.25]]));
}

#[test]
fn a_removed_folder_is_created_again() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("events");
    let board = TensorBoard::open(&folder, 1, LONG);
    board.scalar("loss", 1, 0.5);
    assert!(board.flush(LIMIT));
    std::fs::remove_dir_all(&folder).unwrap();
    board.scalar("loss", 2, 0.25);
    assert!(board.flush(LIMIT));
    assert_eq!(board.errors(), 1);
    drop(board);
    assert_eq!(read_back(&folder)["scalars"]["loss"], serde_json::json!([[2, 0.25]]));
}

#[test]
fn an_image_that_png_cannot_store_counts_as_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let board = TensorBoard::open(folder.path(), 1, LONG);
    board.image("samples", 1, Grid { width: 2, height: 2, channels: 3, pixels: vec![0; 5] });
    board.scalar("loss", 1, 0.5);
    assert!(board.flush(LIMIT));
    assert_eq!(board.errors(), 1);
    assert_eq!(read_back(folder.path())["scalars"]["loss"], serde_json::json!([[1, 0.5]]));
}

/// A Python program that prints hyperparameters and the layout as TensorBoard's own plugins decode them.
const PLUGIN_READER: &str = r#"
import json, sys
from google.protobuf import json_format
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata, plugin_data_pb2
events = plugin_event_accumulator.EventAccumulator(sys.argv[1])
events.Reload()
found = {}
for tag, content in events.PluginTagToContent("hparams").items():
    # This refuses content of another version.
    metadata._parse_plugin_data_as(content, {"_hparams_/experiment": "experiment",
        "_hparams_/session_start_info": "session_start_info", "_hparams_/session_end_info": "session_end_info"}[tag])
    found[tag] = json_format.MessageToDict(plugin_data_pb2.HParamsPluginData.FromString(content))
layout = layout_pb2.Layout()
layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
found["layout"] = json_format.MessageToDict(layout)
print(json.dumps(found))
"#;

#[test]
fn tensorboard_reads_hyperparameters_and_the_layout() {
    let folder = tempfile::tempdir().unwrap();
    let board = TensorBoard::open(folder.path(), 1, LONG);
    let values = [
        ("learning_rate".to_owned(), Hyperparameter::Number(1e-4)),
        ("learn_sigma".to_owned(), Hyperparameter::Bool(true)),
        ("schedule".to_owned(), Hyperparameter::Text("cosine".to_owned())),
    ];
    board.run_starts(0, "runs/a", &values, &["loss"]);
    board.layout(0, &[ChartGroup { title: "Loss", charts: &[("by timestep", &["loss_q[0-3]"])] }]);
    board.run_ends(9, true);
    drop(board);

    let output = read_with(PLUGIN_READER, folder.path());
    let start = &output["_hparams_/session_start_info"]["sessionStartInfo"];
    assert_eq!(start["hparams"], serde_json::json!({"learning_rate": 1e-4, "learn_sigma": true, "schedule": "cosine"}));
    assert_eq!(start["groupName"], "runs/a");
    let experiment = &output["_hparams_/experiment"]["experiment"];
    let kinds: Vec<&serde_json::Value> =
        experiment["hparamInfos"].as_array().unwrap().iter().map(|info| &info["type"]).collect();
    assert_eq!(kinds, ["DATA_TYPE_FLOAT64", "DATA_TYPE_BOOL", "DATA_TYPE_STRING"]);
    assert_eq!(experiment["metricInfos"][0]["name"]["tag"], "loss");
    assert_eq!(output["_hparams_/session_end_info"]["sessionEndInfo"]["status"], "STATUS_SUCCESS");
    let chart = &output["layout"]["category"][0]["chart"][0];
    assert_eq!(chart["multiline"]["tag"], serde_json::json!(["loss_q[0-3]"]));
}
