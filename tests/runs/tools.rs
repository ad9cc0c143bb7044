//! `admiral checkpoint` on checkpoints of real runs, in a folder and on a real S3 server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::mpirun::{Finished, Running, run};
use crate::runs::{PATIENCE, Place, errors, wait_until};
use crate::s3::{S3, environment};

/// A run that has saved steps 5, 10, 15 and 20. No test changes it.
fn original() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::new();
        place.trained(1, "run", &["--set", "training.save_interval=5"]);
        place
    })
}

/// A copy of that run, which a test may change.
struct Copy {
    folder: tempfile::TempDir,
}

impl Copy {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let status = Command::new("cp").arg("-r").arg(original().path("run")).arg(folder.path()).status().unwrap();
        assert!(status.success());
        Self { folder }
    }

    /// The run's folder.
    fn run(&self) -> String {
        self.folder.path().join("run").to_str().unwrap().to_owned()
    }

    /// A file of a step, or the step's folder if `file` is empty.
    fn file(&self, step: u64, file: &str) -> PathBuf {
        self.folder.path().join(format!("run/checkpoints/step-{step:09}")).join(file)
    }

    fn steps(&self) -> Vec<u64> {
        [5, 10, 15, 20].into_iter().filter(|&step| self.file(step, "").exists()).collect()
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
    command.arg("checkpoint").args(arguments);
    command
}

fn tool(arguments: &[&str]) -> Finished {
    run(&mut command(arguments), PATIENCE)
}

/// Runs a command, which must exit with `code`. Returns its standard output.
fn text(code: i32, arguments: &[&str]) -> String {
    let finished = tool(arguments);
    assert_eq!(finished.code, Some(code), "{arguments:?}: {}{}", finished.stdout, finished.stderr);
    finished.stdout
}

fn as_json(code: i32, arguments: &[&str]) -> Value {
    let text = text(code, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A field of each entry of a JSON list, by step.
fn by_step(answer: &Value, list: &str, field: &str) -> BTreeMap<u64, Value> {
    let entries = answer[list].as_array().unwrap();
    entries.iter().map(|entry| (entry["step"].as_u64().unwrap(), entry[field].clone())).collect()
}

fn flip_a_bit(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// The start of the name of a tensor file. The ID of the attempt follows.
const FILE: &str = "model-00001-of-00001-";

/// Returns the path, in the folder of its step, of the file of a role.
fn tensor_file(copy: &Copy, step: u64, role: &str) -> String {
    let mut files = std::fs::read_dir(copy.file(step, role)).unwrap();
    let name = files.next().unwrap().unwrap().file_name().into_string().unwrap();
    assert!(name.starts_with(FILE) && files.next().is_none(), "{name}");
    format!("{role}/{name}")
}

#[test]
fn list_reports_the_state_of_every_folder() {
    let copy = Copy::new();
    let whole = as_json(0, &["list", &copy.run()]);
    assert_eq!((&whole["newest"], &whole["latest_json"]), (&json!(20), &json!(20)));
    assert_eq!(whole["owner"]["state"], "released");
    let manifest: Value = serde_json::from_slice(&std::fs::read(copy.file(20, "manifest.json")).unwrap()).unwrap();
    let newest = &whole["checkpoints"][3];
    assert_eq!((&newest["writer"], &newest["created"]), (&manifest["writer"], &manifest["created"]));
    assert_eq!(newest["roles"], json!(["master", "adam-mean", "adam-variance", "ema-0.9", "ema-0.99"]));
    let bytes: u64 = manifest["files"].as_array().unwrap().iter().map(|file| file["length"].as_u64().unwrap()).sum();
    let of_manifest = std::fs::metadata(copy.file(20, "manifest.json")).unwrap().len();
    assert_eq!(newest["bytes"], bytes + of_manifest);

    std::fs::write(copy.file(5, "manifest.json"), r#"{"schema_version": 99}"#).unwrap();
    std::fs::write(copy.file(10, "manifest.json"), "{").unwrap();
    std::fs::remove_file(copy.file(15, "manifest.json")).unwrap();
    std::fs::rename(copy.file(20, "manifest.json"), copy.file(20, "manifest.damaged.json")).unwrap();
    // The checkpoints' folder, instead of the run's.
    let place = format!("{}/checkpoints", copy.run());
    let broken = as_json(0, &["list", &place]);
    let states = by_step(&broken, "checkpoints", "state");
    let expected = [(5, "newer schema"), (10, "damaged"), (15, "incomplete"), (20, "set aside")];
    assert_eq!(states, expected.map(|(step, state)| (step, json!(state))).into());
    assert_eq!((&broken["newest"], &broken["latest_json"]), (&json!(10), &json!(20)));
    let text = text(0, &["list", &place]);
    for part in [
        "latest.json names step 20, which is not the newest",
        "version 99",
        "damaged, newest",
        "set aside, latest.json",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn show_prints_the_manifest_and_a_configuration_that_trains() {
    let run = original().path("run");
    let run = run.to_str().unwrap();
    let step = format!("{run}/checkpoints/step-000000010");
    let shown = text(0, &["show", &step]);
    for part in ["diffusion", "learning_rate 0.001", "ema-0.99", FILE, "32"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let manifest: Value = serde_json::from_slice(&std::fs::read(format!("{step}/manifest.json")).unwrap()).unwrap();
    assert_eq!(as_json(0, &["show", &step])["manifest"], manifest);
    // For a run's folder, the newest checkpoint is shown.
    assert_eq!(as_json(0, &["show", run])["manifest"]["training"]["step"], 20);
    let yaml = text(0, &["show", &step, "--config"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), yaml).unwrap();
    let mut config = Command::new(env!("CARGO_BIN_EXE_admiral"));
    let finished = self::run(config.args(["config", "show"]).arg(file.path()), PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains("save_interval: 5\n"), "{}", finished.stdout);
}

#[test]
fn verify_names_every_bad_file() {
    let copy = Copy::new();
    let all = as_json(0, &["verify", &copy.run(), "--all"]);
    assert_eq!(by_step(&all, "checkpoints", "whole"), [5, 10, 15, 20].map(|step| (step, json!(true))).into());

    let [master, mean] = ["master", "adam-mean"].map(|role| tensor_file(&copy, 10, role));
    let average = tensor_file(&copy, 15, "ema-0.9");
    flip_a_bit(&copy.file(10, &master));
    std::fs::remove_file(copy.file(10, &mean)).unwrap();
    let cut = copy.file(15, &average);
    std::fs::write(&cut, &std::fs::read(&cut).unwrap()[..100]).unwrap();
    let finished = tool(&["verify", &copy.run(), "--all"]);
    assert_eq!(finished.code, Some(64), "{}", finished.stderr);
    let named = [
        (format!("step-000000010/{master}"), "SHA-256"),
        (format!("step-000000010/{mean}"), "missing"),
        (format!("step-000000015/{average}"), "has 100 bytes"),
    ];
    for (file, reason) in named {
        let lines: Vec<&str> = finished.stdout.lines().filter(|line| line.contains(&file)).collect();
        assert!(lines.len() == 1 && lines[0].contains(reason), "{file}: {}", finished.stdout);
    }
    let said = errors(&finished);
    assert!(said.len() == 1 && said[0].contains("2 of 4") && said[0].ends_with("steps 10, 15"), "{said:?}");
    // The newest checkpoint, and a given step.
    text(0, &["verify", &copy.run()]);
    text(0, &["verify", &copy.run(), "--step", "5"]);
    text(64, &["verify", &copy.run(), "--step", "10"]);
    let missing = tool(&["verify", &copy.run(), "--step", "11"]);
    assert_eq!(missing.code, Some(64));
    assert!(errors(&missing)[0].contains("5, 10, 15, 20"), "{}", missing.stderr);
}

/// The number of tensors and of values of a role that differ, and the largest difference.
fn expected_difference(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>, role: &str) -> (usize, u64, f64) {
    let (mut tensors, mut count, mut largest) = (0, 0, 0.0_f64);
    let value = |bytes: &[u8; 4]| f64::from(f32::from_le_bytes(*bytes));
    for (name, left) in a.iter().filter(|(name, _)| name.starts_with(&format!("{role}/"))) {
        let pairs: Vec<_> = left.as_chunks::<4>().0.iter().zip(b[name].as_chunks::<4>().0).collect();
        let different: Vec<f64> =
            pairs.into_iter().filter(|(l, r)| l != r).map(|(l, r)| (value(l) - value(r)).abs()).collect();
        tensors += usize::from(!different.is_empty());
        count += different.len() as u64;
        largest = different.into_iter().fold(largest, f64::max);
    }
    (tensors, count, largest)
}

#[test]
fn diff_compares_checkpoints_of_different_world_sizes() {
    let place = original();
    // Another seed for dropout, and another number of files.
    let changed = ["--set", "training.save_interval=20", "--set", "optimizer.learning_rate=0.002"];
    place.trained(2, "other", &changed);
    let path =
        |run: &str, step: u64| place.path(run).join(format!("checkpoints/step-{step:09}")).to_str().unwrap().to_owned();
    let (a, b) = (path("run", 20), path("other", 20));
    let same = text(0, &["diff", &a, place.path("run").to_str().unwrap()]);
    assert!(same.contains("equal: "), "{same}");
    assert_eq!(as_json(0, &["diff", &b, &b])["equal"], true);

    let (tensors_a, tensors_b) = (place.tensors("run", 20), place.tensors("other", 20));
    // In both directions, because the program loops over the checkpoint with fewer files.
    for (a, b, rates) in [(&a, &b, [0.001, 0.002]), (&b, &a, [0.002, 0.001])] {
        let report = as_json(1, &["diff", a, b]);
        assert_eq!(report["equal"], false);
        let fields = report["configuration"].as_array().unwrap();
        let rate = fields.iter().find(|field| field["field"] == "optimizer.learning_rate").unwrap();
        assert_eq!([&rate["a"], &rate["b"]], [&json!(rates[0]), &json!(rates[1])]);
        assert!(fields.iter().all(|field| field["field"] != "model.num_channels"));
        assert_eq!(report["training"], json!([]));
        for role in report["roles"].as_array().unwrap() {
            let name = role["role"].as_str().unwrap();
            let (tensors, values, largest) = expected_difference(&tensors_a, &tensors_b, name);
            assert!(tensors > 0);
            assert_eq!(role["tensors"].as_u64().unwrap() as usize * 5, tensors_a.len(), "{name}");
            assert_eq!(role["different_tensors"], tensors, "{name}");
            assert_eq!(role["different_values"], values, "{name}");
            assert_eq!(role["largest_difference"].as_f64().unwrap(), largest, "{name}");
        }
        assert_eq!(report["roles"].as_array().unwrap().len(), 5);
    }

    let (_, _, largest) = expected_difference(&tensors_a, &tensors_b, "master");
    let weights = |tolerance: f64| {
        let tolerance = tolerance.to_string();
        tool(&["diff", &a, &b, "--weights", "master", "--tolerance", &tolerance]).code
    };
    assert_eq!((weights(largest), weights(largest * 0.99)), (Some(0), Some(1)));
    let steps = as_json(1, &["diff", &path("run", 15), &a]);
    assert_eq!(steps["training"][0], json!({"field": "step", "a": 15, "b": 20}));
    assert_eq!(steps["configuration"], json!([]));
    let unknown = tool(&["diff", &a, &b, "--weights", "ema-0.5"]);
    assert_eq!(unknown.code, Some(64));
    assert!(errors(&unknown)[0].contains("ema-0.99"), "{}", unknown.stderr);
}

#[test]
fn prune_deletes_the_checkpoints_that_it_lists() {
    let copy = Copy::new();
    let run = copy.run();
    let options = ["prune", &run, "--keep-last", "1", "--keep-every", "10"];
    let planned = as_json(0, &[&options[..], &["--dry-run"]].concat());
    assert_eq!(copy.steps(), [5, 10, 15, 20], "nothing is deleted");
    let deleted = by_step(&planned, "steps", "deleted");
    assert_eq!(deleted, [(5, true), (10, false), (15, true), (20, false)].map(|(s, d)| (s, json!(d))).into());
    assert_eq!(by_step(&planned, "steps", "why")[&10], "every 10 steps");
    let done = as_json(0, &options);
    assert_eq!(by_step(&done, "steps", "deleted"), deleted);
    assert_eq!((copy.steps(), &done["bytes_freed"]), (vec![10, 20], &planned["bytes_freed"]));
    text(0, &["verify", &run, "--all"]);
    assert_eq!(as_json(0, &options)["bytes_freed"], 0);
}

#[test]
fn prune_deletes_nothing_if_the_newest_checkpoint_is_damaged() {
    let copy = Copy::new();
    let run = copy.run();
    let average = tensor_file(&copy, 20, "ema-0.9");
    flip_a_bit(&copy.file(20, &average));
    let refused = tool(&["prune", &run, "--keep-last", "1"]);
    assert_eq!((refused.code, copy.steps()), (Some(64), vec![5, 10, 15, 20]));
    assert!(errors(&refused)[0].contains(&format!("step-000000020/{average}")), "{}", refused.stderr);
    std::fs::write(copy.file(20, "manifest.json"), "{").unwrap();
    assert_eq!(tool(&["prune", &run, "--keep-last", "1"]).code, Some(64));
    assert_eq!(copy.steps(), [5, 10, 15, 20]);
}

#[test]
fn prune_removes_leftovers_of_saves_but_no_running_save() {
    let copy = Copy::new();
    let run = copy.run();
    std::fs::remove_file(copy.file(5, "manifest.json")).unwrap();
    // A staged file that a killed writer has left.
    std::fs::write(copy.file(5, &format!("{}#1", tensor_file(&copy, 5, "master"))), "half").unwrap();
    std::fs::rename(copy.file(10, "manifest.json"), copy.file(10, "manifest.damaged.json")).unwrap();
    std::fs::remove_file(copy.file(20, "manifest.json")).unwrap();
    text(0, &["prune", &run, "--keep-last", "4"]);
    assert_eq!(copy.steps(), [10, 15, 20]);
    text(0, &["prune", &run, "--keep-last", "4", "--damaged"]);
    assert_eq!(copy.steps(), [15, 20]);
}

#[test]
fn prune_keeps_the_step_that_a_run_resumed_from_and_running_saves() {
    let copy = Copy::new();
    let run = copy.run();
    let endless = ["--resume", "latest", "--set", "training.steps=100000000", "--set", "training.save_interval=50"];
    let folder = format!("run.folder={run}");
    let training = Running::start(original().train(1, "run", &endless).args(["--set", &folder]));
    wait_until("the run has saved", || copy.file(50, "manifest.json").exists());
    // The first file of a save of the live run, and one of a run that ended long ago.
    for step in [17, 25] {
        std::fs::create_dir_all(copy.file(step, "master")).unwrap();
        std::fs::write(copy.file(step, &format!("master/{FILE}0123456789abcdef.safetensors")), "half").unwrap();
    }
    assert_eq!(as_json(0, &["list", &run])["owner"]["state"], "alive");
    let plan = as_json(0, &["prune", &run, "--keep-last", "1", "--dry-run"]);
    let (why, deleted) = (by_step(&plan, "steps", "why"), by_step(&plan, "steps", "deleted"));
    assert_eq!(
        (&why[&20], &deleted[&15], &deleted[&17]),
        (&json!("a run resumed from it"), &json!(true), &json!(true))
    );
    assert!(why[&25].as_str().unwrap().contains("may be writing it"), "{why:?}");
    // After it is killed, it may be restarted and resume from the same step.
    training.kill();
    assert_eq!(as_json(0, &["list", &run])["owner"]["state"], "dead");
    let done = by_step(&as_json(0, &["prune", &run, "--keep-last", "1"]), "steps", "deleted");
    assert_eq!((&done[&20], &done[&25]), (&json!(false), &json!(true)));
    assert_eq!(copy.steps(), [20]);
    text(0, &["verify", &run, "--all"]);
}

#[test]
fn a_checkpoint_of_schema_version_1_is_verified_and_resumed() {
    let copy = Copy::new();
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(copy.file(20, "manifest.json")).unwrap()).unwrap();
    manifest["schema_version"] = json!(1);
    manifest.as_object_mut().unwrap().remove("writer");
    // The configuration as it was at that time.
    manifest["configuration"]["checkpoint"] = json!({"url": null});
    std::fs::write(copy.file(20, "manifest.json"), manifest.to_string()).unwrap();
    let run = copy.run();
    assert!(text(0, &["show", &run]).contains("schema version 1"));
    text(0, &["verify", &run]);
    let folder = format!("run.folder={run}");
    let arguments = ["--resume", "latest", "--set", "training.steps=22", "--set", &folder];
    let finished = self::run(&mut original().train(1, "run", &arguments), PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(as_json(0, &["list", &run])["newest"], 22);
}

#[test]
fn a_probe_reports_whether_a_location_is_writable_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("to/come");
    let answer = as_json(0, &["probe", place.to_str().unwrap()]);
    assert!(answer["seconds"].as_f64().unwrap() > 0.0, "{answer}");
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    // Not even root can create a folder below a file.
    std::fs::write(folder.path().join("file"), "").unwrap();
    let refused = tool(&["probe", folder.path().join("file/place").to_str().unwrap()]);
    assert_eq!(refused.code, Some(64), "{}", refused.stderr);
    assert!(refused.stderr.contains("file/place"), "{}", refused.stderr);
}

#[test]
fn a_wrong_location_is_one_clear_error() {
    let empty = tempfile::tempdir().unwrap();
    let (empty, step) = (empty.path().to_str().unwrap(), original().path("run/checkpoints/step-000000010"));
    let cases: [(&[&str], &str); 7] = [
        (&["list", "/no/such/folder"], "no such folder"),
        (&["list", empty], "looked for"),
        (&["show", empty], "looked for"),
        (&["verify", "ftp://bucket/x"], "ftp:// is not supported"),
        (&["list", step.to_str().unwrap()], "is a checkpoint itself"),
        (&["diff", step.to_str().unwrap(), empty], "looked for"),
        (&["prune", step.to_str().unwrap(), "--keep-last", "1"], "is a checkpoint itself"),
    ];
    for (arguments, expected) in cases {
        let finished = tool(arguments);
        assert_eq!(finished.code, Some(64), "{arguments:?}");
        assert_eq!(finished.stdout, "", "{arguments:?}");
        assert_eq!(finished.stderr.lines().count(), 1, "{arguments:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(expected), "{arguments:?}: {}", finished.stderr);
    }
}

#[test]
fn every_tool_works_on_s3() {
    let server = S3::start();
    let with_server = |command: &mut Command| run(command.envs(environment(server.port)), PATIENCE);
    let place = Place::new();
    let url = "s3://bucket/some/run/checkpoints";
    let trained = with_server(&mut place.train(1, "run", &["--set", &format!("checkpoint.url={url}")]));
    assert_eq!(trained.code, Some(0), "{}", trained.stderr);
    let tool = |code: i32, arguments: &[&str]| {
        let finished = with_server(&mut command(arguments));
        assert_eq!(finished.code, Some(code), "{arguments:?}: {}{}", finished.stdout, finished.stderr);
        finished.stdout
    };
    // A prefix works like a run's folder.
    let listed: Value = serde_json::from_str(&tool(0, &["list", "s3://bucket/some/run", "--json"])).unwrap();
    assert_eq!(listed["place"], url);
    let published = [10, 20].map(|step| (step, json!("published")));
    assert_eq!(by_step(&listed, "checkpoints", "state"), published.into());
    assert!(tool(0, &["show", url]).starts_with(&format!("{url}/step-000000020")));
    tool(0, &["verify", url, "--all"]);
    let probed: Value = serde_json::from_str(&tool(0, &["probe", url, "--json"])).unwrap();
    assert_eq!(probed["url"], url);
    tool(64, &["probe", "s3://no-such-bucket/run"]);
    let (older, newer) = (format!("{url}/step-000000010"), format!("{url}/step-000000020"));
    tool(1, &["diff", &older, &newer]);
    tool(0, &["diff", &newer, url]);
    tool(0, &["prune", url, "--keep-last", "1"]);
    let listed: Value = serde_json::from_str(&tool(0, &["list", url, "--json"])).unwrap();
    assert_eq!(by_step(&listed, "checkpoints", "state"), [(20, json!("published"))].into());
    for tool in [&["list"][..], &["verify"], &["prune", "--keep-last", "1"]] {
        let finished = with_server(&mut command(&[tool, &["s3://no-such-bucket/x"]].concat()));
        assert_eq!(finished.code, Some(64), "{tool:?}: {}", finished.stderr);
        assert!(errors(&finished)[0].contains("s3://no-such-bucket/x"), "{}", finished.stderr);
    }
}
