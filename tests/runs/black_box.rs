//! The black box of a run: a step that goes wrong is recorded, and a replay names the cause.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::mpirun::{Finished, mpirun, run};
use crate::runs::{PATIENCE, Place, errors};

/// Overrides of fields as arguments.
fn set(fields: &[&str]) -> Vec<String> {
    fields.iter().flat_map(|field| ["--set".to_owned(), (*field).to_owned()]).collect()
}

fn train(place: &Place, ranks: usize, arguments: &[String]) -> Finished {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let finished = run(&mut place.train(ranks, "run", &arguments), PATIENCE);
    assert!(!finished.timed_out, "{}", finished.stderr);
    finished
}

/// The capsules of the run, in order.
fn capsules(place: &Place) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(place.path("run/black-box")) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Trains until the run diverges. Returns the folder of its only capsule, and the capsule.
fn diverges(place: &Place, ranks: usize, arguments: &[String]) -> (PathBuf, Value) {
    let finished = train(place, ranks, arguments);
    assert_eq!((finished.code, errors(&finished).len()), (Some(65), 1), "{}", finished.stderr);
    assert!(errors(&finished)[0].contains("training diverged"), "{}", finished.stderr);
    let mut folders = capsules(place);
    assert_eq!(folders.len(), 1, "{}", finished.stderr);
    let folder = folders.remove(0);
    assert!(finished.stderr.contains(&format!("admiral replay '{}'", folder.display())), "{}", finished.stderr);
    let capsule = read(&folder.join("capsule.json"));
    (folder, capsule)
}

/// As [`diverges`], after a checkpoint of step 10 that is certainly published.
fn diverges_after_a_checkpoint(place: &Place, ranks: usize, arguments: &[String]) -> (PathBuf, Value) {
    place.trained(ranks, "run", &["--set", "training.steps=10"]);
    let resume = [set(&["training.steps=20"]), vec!["--resume".into(), "latest".into()]].concat();
    diverges(place, ranks, &[arguments, &resume].concat())
}

fn replay_command(capsule: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
    command.arg("replay").arg(capsule).args(["--device", "cpu", "--threads", "1"]).args(arguments);
    command
}

/// Replays a capsule. Returns the report and its text for people.
fn replay(capsule: &Path, arguments: &[&str]) -> (Value, String) {
    let finished = run(&mut replay_command(capsule, arguments), PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let last = finished.stdout.lines().last().unwrap();
    let report = read(Path::new(last.strip_prefix("wrote ").unwrap()));
    (report, finished.stdout)
}

/// The faults of a test, beside other fields.
fn faults(fields: &[&str]) -> Vec<String> {
    set(&[&["faults.enabled=true", "training.microbatch=2"], fields].concat())
}

#[test]
fn a_damaged_image_is_named_and_comes_again() {
    let place = Place::new();
    // Step 12 has the samples 96 to 103, of which rank 1 has the last four.
    let damage = faults(&["faults.bad_sample=101", "faults.bad_value=inf"]);
    let (folder, capsule) = diverges_after_a_checkpoint(&place, 2, &damage);
    assert_eq!(capsule["step"], 12);
    assert_eq!((&capsule["start"]["checkpoint"]["step"], &capsule["start"]["steps_since"]), (&10.into(), &2.into()));
    assert_eq!(
        capsule["batch"],
        serde_json::json!({"world": 2, "global_batch": 8, "microbatch": 2, "accumulation": 2})
    );
    let ranks = capsule["ranks"].as_array().unwrap();
    let indices = |rank: usize| -> Vec<u64> {
        ranks[rank]["samples"].as_array().unwrap().iter().map(|sample| sample["index"].as_u64().unwrap()).collect()
    };
    assert_eq!([indices(0), indices(1)], [vec![96, 97, 98, 99], vec![100, 101, 102, 103]]);
    assert_eq!(ranks[1]["samples"][1]["loss"], "nan");
    assert!(ranks[1]["samples"][0]["loss"].as_f64().unwrap() > 0.0);
    assert!(ranks[0]["bad_gradient"].is_null() && ranks[1]["bad_gradient"].is_string(), "{ranks:?}");
    assert_eq!(ranks[1]["bad_parameters"], serde_json::json!([]));

    let (report, text) = replay(&folder, &[]);
    assert!(text.starts_with("PERSISTENT"), "{text}");
    assert_eq!(report["came_again"], true);
    let forward = &report["forward"];
    assert_eq!((&forward["tensor"], &forward["rank"], &forward["pass"]), (&"image".into(), &1.into(), &0.into()));
    assert_eq!((&forward["sample"]["index"], &forward["sample"]["position"]), (&101.into(), &1.into()));
    assert_eq!(forward["sample"]["timestep"], ranks[1]["samples"][1]["timestep"]);
    assert_eq!((&forward["value"], &forward["first"]), (&"inf".into(), &serde_json::json!([1, 0, 0, 0])));
    // The losses of the samples that are whole depend on the steps since the checkpoint.
    assert_eq!(report["losses"], serde_json::json!({"num": 8, "differences": []}));
    assert!(text.contains("sample 101"), "{text}");
    let npz = std::fs::read(folder.join("replay-1/sample-101.npz")).unwrap();
    assert!(npz.starts_with(b"PK") && folder.join("replay-1/sample-101.png").is_file());

    // The step before is whole. Its files are in another folder, and nothing is replaced.
    let (report, text) = replay(&folder, &["--at", "11"]);
    assert!(report["forward"].is_null() && report["backward"].is_null() && report["came_again"].is_null(), "{text}");
    assert!(report["loss"].as_f64().unwrap() > 0.0);
    assert!(folder.join("replay-2/report.json").is_file());

    // A run's folder that was moved still has its checkpoint.
    std::fs::rename(place.path("run"), place.path("moved")).unwrap();
    let moved = place.path("moved/black-box").join(folder.file_name().unwrap());
    assert_eq!(replay(&moved, &[]).0["forward"]["sample"]["index"], 101);
}

#[test]
fn steps_from_before_a_change_of_the_ranks_are_replayed_as_they_were_taken() {
    let place = Place::new();
    // Each rank and pass has its own dropout masks.
    let fields = ["training.microbatch=2", "training.save_interval=5", "model.dropout=0.5", "faults.enabled=true"];
    let until = |ranks, steps: &str, more: &[&str]| {
        let arguments = set(&[&fields[..], &[steps], more].concat());
        train(&place, ranks, &[arguments, vec!["--resume".into(), "auto".into()]].concat())
    };
    for (ranks, steps) in [(2, "training.steps=5"), (1, "training.steps=10")] {
        let finished = until(ranks, steps, &[]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    let finished = until(2, "training.steps=20", &["faults.bad_sample=101"]);
    assert_eq!(finished.code, Some(65), "{}", finished.stderr);
    let folder = capsules(&place).remove(0);
    let earlier = place.path("run/checkpoints/step-000000005");
    let (report, text) = replay(&folder, &["--checkpoint", earlier.to_str().unwrap()]);
    assert_eq!((&report["step"], &report["checkpoint"], &report["world"]), (&12.into(), &5.into(), &2.into()));
    assert_eq!(report["losses"], serde_json::json!({"num": 8, "differences": []}), "{text}");
    let (report, _) = replay(&folder, &["--checkpoint", earlier.to_str().unwrap(), "--at", "7"]);
    assert_eq!(report["world"], 1);
}

#[test]
fn a_gradient_that_was_damaged_once_does_not_come_again() {
    for overlaps in [true, false] {
        let place = Place::new();
        gradient_does_not_come_again(&place, overlaps);
    }
}

fn gradient_does_not_come_again(place: &Place, overlaps: bool) {
    let name = "middle_block.0.in_layers.2.weight";
    let (damage, overlap) = (format!("faults.bad_gradient={name}"), format!("training.overlap_all_reduce={overlaps}"));
    let fields = [&damage, "faults.bad_rank=1", "faults.at_step=13", &overlap];
    let (folder, capsule) = diverges(place, 2, &faults(&fields));
    assert_eq!(capsule["step"], 12);
    assert!(capsule["ranks"][0]["bad_gradient"].is_null());
    assert_eq!(capsule["ranks"][1]["bad_gradient"], name);
    let gradients = capsule["gradients"].as_array().unwrap();
    let bad: Vec<&Value> = gradients.iter().filter(|gradient| gradient["norm"].is_string()).collect();
    assert_eq!(bad, [&serde_json::json!({"name": name, "norm": "nan"})]);

    let (report, text) = replay(&folder, &[]);
    assert!(text.starts_with("TRANSIENT") && text.contains("rank 1 on "), "{text}");
    assert!(report["came_again"] == false && report["forward"].is_null() && report["backward"].is_null(), "{text}");
    let differences = report["gradients"]["differences"].as_array().unwrap();
    assert_eq!(differences.iter().map(|difference| &difference["name"]).collect::<Vec<_>>(), [name]);
    assert_eq!(report["losses"]["differences"], serde_json::json!([]));
}

#[test]
fn the_rank_with_damaged_memory_is_named() {
    let place = Place::new();
    let name = "input_blocks.1.0.in_layers.2.weight";
    let damage = [&format!("faults.bad_parameter={name}"), "faults.bad_rank=1", "faults.at_step=13"];
    let (folder, capsule) = diverges(&place, 2, &faults(&[&damage[..], &["faults.bad_value=inf"]].concat()));
    assert_eq!(capsule["ranks"][0]["bad_parameters"], serde_json::json!([]));
    assert_eq!(capsule["ranks"][1]["bad_parameters"], serde_json::json!([name]));
    let (report, text) = replay(&folder, &[]);
    assert!(text.starts_with("TRANSIENT") && text.contains("rank 1 on ") && text.contains(name), "{text}");
    assert_eq!(report["came_again"], false);
}

/// Replaces the first value of a master in a checkpoint by NaN, with checksums that fit.
fn damage_master(checkpoint: &Path, name: &str) {
    let hexadecimal = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    for file in std::fs::read_dir(checkpoint.join("master")).unwrap().map(|entry| entry.unwrap().path()) {
        let mut bytes = std::fs::read(&file).unwrap();
        let before = hexadecimal(&bytes);
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let Some(offset) = header[name]["data_offsets"][0].as_u64() else { continue };
        let start = 8 + length + offset as usize;
        bytes[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&file, &bytes).unwrap();
        let manifest = std::fs::read_to_string(checkpoint.join("manifest.json")).unwrap();
        assert!(manifest.contains(&before));
        std::fs::write(checkpoint.join("manifest.json"), manifest.replace(&before, &hexadecimal(&bytes))).unwrap();
        return;
    }
    panic!("{name} is in no file");
}

#[test]
fn a_weight_that_is_damaged_in_the_checkpoint_is_named_with_its_layer() {
    let place = Place::new();
    place.trained(2, "run", &["--set", "training.steps=10"]);
    damage_master(&place.path("run/checkpoints/step-000000010"), "input_blocks.1.0.in_layers.2.weight");
    let resume = [set(&["training.steps=20"]), vec!["--resume".into(), "latest".into()]].concat();
    let (folder, capsule) = diverges(&place, 2, &resume);
    assert_eq!((&capsule["step"], &capsule["start"]["steps_since"]), (&10.into(), &0.into()));
    let bad = serde_json::json!(["input_blocks.1.0.in_layers.2.weight"]);
    assert!((0..2).all(|rank| capsule["ranks"][rank]["bad_parameters"] == bad), "{capsule}");
    let (report, text) = replay(&folder, &[]);
    assert!(text.starts_with("PERSISTENT"), "{text}");
    assert_eq!(report["bad_parameters"], bad);
    let forward = &report["forward"];
    assert_eq!((&forward["module"], &forward["tensor"]), (&"input_blocks.1.0.in_layers.2".into(), &"output".into()));
    assert!(forward["input_range"]["max"].is_number() && forward["after"].is_string(), "{forward}");
}

#[test]
fn a_learning_rate_that_is_too_large_comes_again_from_the_initial_values() {
    let place = Place::new();
    let (folder, capsule) = diverges(&place, 1, &set(&["optimizer.learning_rate=1e30"]));
    assert_eq!(capsule["step"], 1);
    assert_eq!(capsule["start"], serde_json::json!({"checkpoint": null, "steps_since": 1}));
    let (report, text) = replay(&folder, &[]);
    assert!(text.starts_with("PERSISTENT"), "{text}");
    assert_eq!((&report["bad_parameters"], &report["checkpoint"]), (&serde_json::json!([]), &Value::Null));
    let forward = &report["forward"];
    assert!(forward["tensor"] == "loss" || forward["tensor"] == "output", "{forward}");
    let range = ["min", "max"].map(|end| forward["input_range"][end].as_f64().unwrap().abs());
    assert!(range[0].max(range[1]) > 1e3 && forward["sample"]["index"].as_u64().unwrap() >= 8, "{forward}");
}

#[test]
fn a_loss_that_jumps_is_recorded_and_its_step_is_the_same_in_a_replay() {
    let place = Place::new();
    let short = ["training.steps=40", "training.microbatch=2", "training.loss_jump_factor=1.05"];
    let finished = train(&place, 2, &set(&short));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let folders = capsules(&place);
    assert!(!folders.is_empty() && folders[0].display().to_string().ends_with("-loss-jump"), "{folders:?}");
    let capsule = read(&folders[0].join("capsule.json"));
    let number = |field: &str| capsule[field].as_f64().unwrap();
    assert!(number("loss") > 1.05 * number("median_loss"), "{capsule}");
    assert_eq!(place.curve("run", "loss").len(), 40);
    let (report, text) = replay(&folders[0], &[]);
    assert!(text.starts_with("PERSISTENT"), "{text}");
    // Dropout, samples, timesteps and the steps since the checkpoint are those of both ranks.
    assert!(report["gradients"]["num"].as_u64().unwrap() > 40);
    assert_eq!(report["gradients"]["differences"], serde_json::json!([]), "{text}");
    assert_eq!(report["losses"], serde_json::json!({"num": 8, "differences": []}), "{text}");

    let other = Place::new();
    let stops = train(&other, 2, &set(&[&short[..], &["training.on_loss_jump=stop"]].concat()));
    assert_eq!((stops.code, errors(&stops).len()), (Some(65), 1), "{}", stops.stderr);
    assert!(errors(&stops)[0].contains("the loss jumped"), "{}", stops.stderr);
    assert_eq!(capsules(&other).len(), 1);
}

#[test]
fn overflows_are_counted_by_parameter_and_a_run_may_stop_at_the_first() {
    let place = Place::new();
    // The first step does not overflow: the last convolution starts with zeros, and so do all gradients before it.
    let scale = ["precision.initial_lg_loss_scale=40", "precision.fp16_scale_growth=0"];
    let half = [&["precision.mode=fp16", "training.steps=4"][..], &scale].concat();
    let arguments = set(&half);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command = place.train(2, "run", &arguments);
    let finished = run(command.env("RUST_LOG", "debug"), PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let lines = finished.stderr.lines().filter_map(|line| line.split_once("the gradient of ")?.1.split_once(' '));
    let named: Vec<&str> =
        lines.filter(|(_, rest)| rest.starts_with("overflowed first")).map(|(name, _)| name).collect();
    assert_eq!(named.len(), 3, "{}", finished.stderr);
    for name in &named {
        let num = named.iter().filter(|other| other == &name).count();
        let counts: Vec<f64> = (1..=num).map(|count| count as f64).collect();
        assert_eq!(place.curve("run", &format!("overflows/{name}")), counts);
    }
    assert!(capsules(&place).is_empty(), "a skipped step is normal");

    let place = Place::new();
    let (folder, capsule) = diverges(&place, 2, &set(&[&half[..], &["training.on_nan=stop"]].concat()));
    assert_eq!((&capsule["step"], capsule["lg_loss_scale"].as_f64()), (&1.into(), Some(40.0)));
    let (report, text) = replay(&folder, &[]);
    assert!(text.starts_with("PERSISTENT") && report["forward"].is_null(), "{text}");
    let backward = &report["backward"];
    assert_eq!(backward["data_type"], "half", "{backward}");
    assert!(backward["module"].as_str().unwrap().starts_with("output_blocks."), "{backward}");
    assert!((8..16).contains(&backward["sample"]["index"].as_u64().unwrap()), "{backward}");
}

#[test]
fn a_capsule_that_cannot_be_written_does_not_hide_the_error_or_keep_the_run() {
    let place = Place::new();
    let arguments = faults(&["faults.bad_sample=20"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    std::fs::create_dir(place.path("run")).unwrap();
    std::fs::write(place.path("run/black-box"), "a file in the place of the folder").unwrap();
    let refused = run(&mut place.train(1, "run", &arguments), PATIENCE);

    let flag = place.path("frozen");
    std::fs::write(&flag, "").unwrap();
    let mut command = place.train(1, "slow", &arguments);
    command.env("LD_PRELOAD", place.frozen_disk()).env("FROZEN_PROGRAM", "admiral").env("FROZEN_FLAG", &flag);
    let held = run(command.env("FROZEN_FOLDER", place.path("slow/black-box")), PATIENCE);

    for (finished, part) in [(refused, "black-box: "), (held, "the disk does not answer")] {
        assert_eq!((finished.code, errors(&finished).len()), (Some(65), 1), "{}", finished.stderr);
        assert!(errors(&finished)[0].contains("training diverged at step 2"), "{}", finished.stderr);
        let warning = finished.stderr.lines().find(|line| line.contains("not recorded for a replay")).unwrap();
        assert!(warning.contains(part), "{warning}");
    }
}

#[test]
fn what_cannot_be_replayed_is_refused_and_writes_nothing() {
    let place = Place::new();
    let (folder, _) = diverges_after_a_checkpoint(&place, 1, &faults(&["faults.bad_sample=101"]));
    let refused = |mut command: Command, part: &str| {
        let before = std::fs::read_dir(&folder).unwrap().count();
        let finished = run(&mut command, PATIENCE);
        assert_eq!((finished.code, errors(&finished).len()), (Some(64), 1), "{}", finished.stderr);
        assert!(errors(&finished)[0].contains(part), "no {part:?} in {}", finished.stderr);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), before);
    };
    refused(replay_command(&folder, &["--at", "9"]), "before the checkpoint");
    refused(replay_command(&folder, &["--at", "13"]), "after step 12");
    refused(replay_command(&folder, &["--out", &folder.display().to_string()]), "exists already");
    refused(replay_command(&place.path("nowhere"), &[]), "nowhere");
    let mut ranks = mpirun(2);
    ranks.arg(env!("CARGO_BIN_EXE_admiral")).arg("replay").arg(&folder);
    let finished = run(&mut ranks, PATIENCE);
    assert!(finished.code != Some(0) && finished.stderr.contains("one process"), "{}", finished.stderr);

    let text = std::fs::read_to_string(folder.join("capsule.json")).unwrap();
    let changed = place.path("changed.json");
    let cases = [
        (text.replacen("\"format\": 1", "\"format\": 2", 1), "format 2"),
        (text.replacen("\"steps_since\": 2", "\"steps_since\": 3", 1), "damaged"),
        (text.replacen("\"world\": 1", "\"world\": 1000000000000", 1), "damaged"),
        (text.replacen("\"step\": 12", "\"step\": 18446744073709551615", 1), "damaged"),
        (text[..text.len() / 2].to_owned(), "not a capsule"),
        ("[]".to_owned(), "not a capsule"),
    ];
    for (changed_text, part) in cases {
        assert_ne!(changed_text, text);
        std::fs::write(&changed, changed_text).unwrap();
        refused(replay_command(&changed, &[]), part);
    }
    std::fs::remove_file(&changed).unwrap();
    assert!(Command::new("mkfifo").arg(&changed).status().unwrap().success());
    refused(replay_command(&changed, &[]), "changed.json");

    std::fs::remove_dir_all(place.path("run/checkpoints/step-000000010")).unwrap();
    refused(replay_command(&folder, &[]), "--checkpoint");
}
