//! `admiral new` on pictures, `admiral config check` on what it writes, and the training that follows.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::mpirun::{Finished, run};
use crate::runs::{PATIENCE, errors};

fn admiral(arguments: &[&str]) -> Finished {
    run(Command::new(env!("CARGO_BIN_EXE_admiral")).args(arguments), PATIENCE)
}

/// Writes `count` coloured pictures of different sizes, from `side` pixels up, into a folder.
fn pictures(folder: &Path, count: u32, side: u32) {
    std::fs::create_dir_all(folder).unwrap();
    for number in 0..count {
        let color = |x: u32, y: u32| image::Rgb([x, y, number * 7].map(|value| (value * 5 % 256) as u8));
        let picture = image::RgbImage::from_fn(side + number % 7, side + number % 5, color);
        picture.save(folder.join(format!("{number}.png"))).unwrap();
    }
}

/// Writes IDX files of `count` grey images of 28 x 28 pixels in 10 classes.
fn digits(images: &str, labels: &str, count: u32) {
    let header = |shape: &[u32]| {
        let sizes = shape.iter().flat_map(|size| size.to_be_bytes());
        [0, 0, 8, shape.len() as u8].into_iter().chain(sizes).collect::<Vec<u8>>()
    };
    let pixels = (0..count * 28 * 28).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8);
    std::fs::write(images, header(&[count, 28, 28]).into_iter().chain(pixels).collect::<Vec<u8>>()).unwrap();
    let classes = (0..count).map(|image| (image % 10) as u8);
    std::fs::write(labels, header(&[count]).into_iter().chain(classes).collect::<Vec<u8>>()).unwrap();
}

fn path_of(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

/// The effective configuration of a file.
fn shown(file: &str) -> Value {
    let finished = admiral(&["config", "show", file, "--json"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    serde_json::from_str::<Value>(&finished.stdout).unwrap()["config"].take()
}

/// The fields about which `admiral config check` has doubts, and what it says about them.
fn doubts(code: i32, arguments: &[&str]) -> Vec<(String, String)> {
    let finished = admiral(&[&["config", "check", "--json"], arguments].concat());
    assert_eq!(finished.code, Some(code), "{}{}", finished.stdout, finished.stderr);
    let found: Value = serde_json::from_str(&finished.stdout).unwrap();
    let text = |doubt: &Value, name: &str| doubt[name].as_str().unwrap().to_owned();
    let doubts = found["doubts"].as_array().unwrap().iter();
    doubts.map(|doubt| (text(doubt, "field"), text(doubt, "reason"))).collect()
}

/// Trains two steps of a proposal on the CPU, and returns the folder's checkpoint of the last.
fn trains(file: &str, folder: &str) {
    let run_folder = format!("run.folder={folder}");
    let fields = [
        "training.steps=2",
        "training.log_interval=1",
        "training.save_interval=2",
        "training.sample_interval=0",
        "training.global_batch=2",
        "training.microbatch=2",
        "optimizer.warmup_steps=0",
        "optimizer.lr_anneal_steps=0",
        "run.device=cpu",
        "precision.mode=fp32",
        &run_folder,
    ];
    let sets = fields.iter().flat_map(|field| ["--set", *field]);
    let finished = admiral(&["train", file].into_iter().chain(sets).collect::<Vec<_>>());
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(Path::new(folder).join("checkpoints/step-000000002/manifest.json").is_file());
}

#[test]
fn a_folder_of_classes_becomes_a_run_on_a_cpu() {
    let place = tempfile::tempdir().unwrap();
    for class in ["cats", "dogs", "owls"] {
        pictures(&place.path().join("pictures").join(class), 20, 40);
    }
    let (data, out) = (path_of(&place, "pictures"), path_of(&place, "own.yaml"));
    let finished = admiral(&["new", "--data", &data, "--gpu", "cpu", "--out", &out]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains(&format!("admiral train {out}")), "{}", finished.stdout);
    let config = shown(&out);
    assert_eq!((&config["data"]["classes"], &config["data"]["path"]), (&"folder".into(), &data.as_str().into()));
    assert_eq!((&config["model"]["num_classes"], &config["model"]["image_channels"]), (&3.into(), &3.into()));
    assert_eq!((&config["model"]["image_size"], &config["run"]["folder"]), (&32.into(), &"runs/own".into()));
    // Sixty images are too few for any network, which is the only doubt.
    let found = doubts(1, &[&out, "--gpu", "cpu"]);
    assert_eq!(found.iter().map(|(field, _)| &**field).collect::<Vec<_>>(), ["model.num_channels"], "{found:?}");
    trains(&out, &path_of(&place, "run"));
}

#[test]
fn a_proposal_for_gpus_fits_them_and_stays_without_doubts_until_it_is_changed() {
    let place = tempfile::tempdir().unwrap();
    let (data, out) = (path_of(&place, "pictures"), path_of(&place, "own.yaml"));
    pictures(Path::new(&data), 1000, 64);
    let gpus = ["--gpus", "8", "--gpu", "v100"];
    let finished = admiral(&[&["new", "--data", &data, "--out", &out], &gpus[..]].concat());
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let config = shown(&out);
    assert_eq!((&config["data"]["classes"], &config["model"]["num_classes"]), (&"none".into(), &Value::Null));
    assert_eq!((&config["model"]["image_size"], &config["precision"]["mode"]), (&64.into(), &"fp16".into()));
    let fields = |code, more: &[&str]| {
        let arguments = [&[out.as_str()], &gpus[..], more].concat();
        doubts(code, &arguments).into_iter().map(|(field, _)| field).collect::<Vec<_>>()
    };
    assert_eq!(fields(0, &[]), [""; 0]);
    // A plan of the same run says that it fits.
    let plan = admiral(&[&["plan", &out, "--json"], &gpus[..]].concat());
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(plan["plans"][0]["shortage"], Value::Null);

    let changed = fields(1, &["--set", "optimizer.ema_rates=[0.99999999]", "--set", "training.global_batch=7"]);
    for field in ["optimizer.ema_rates", "training.global_batch"] {
        assert!(changed.contains(&field.to_owned()), "{changed:?}");
    }
    let wide =
        ["--set", "model.num_channels=512", "--set", "training.global_batch=4096", "--set", "training.microbatch=512"];
    let found = doubts(1, &[&[out.as_str()], &gpus[..], &wide].concat());
    let memory = found.iter().find(|(field, _)| field == "training.microbatch");
    assert!(memory.is_some_and(|(_, reason)| reason.contains("is 512, which needs")), "{found:?}");
}

#[test]
fn an_idx_file_with_labels_becomes_a_run() {
    let place = tempfile::tempdir().unwrap();
    let (images, labels, out) = (path_of(&place, "images"), path_of(&place, "labels"), path_of(&place, "digits.yaml"));
    digits(&images, &labels, 1000);
    let finished =
        admiral(&["new", "--data", &images, "--labels", &labels, "--gpu", "cpu", "--gpus", "2", "--out", &out]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains("mpirun -n 2"), "{}", finished.stdout);
    let config = shown(&out);
    assert_eq!((&config["data"]["source"], &config["data"]["label_path"]), (&"idx".into(), &labels.as_str().into()));
    // Small and grey: no mirror images, unless the user wants them.
    assert_eq!((&config["data"]["random_flip"], &config["model"]["image_channels"]), (&false.into(), &1.into()));
    assert_eq!((&config["model"]["num_classes"], &config["model"]["image_size"]), (&10.into(), &32.into()));
    assert_eq!(doubts(0, &[&out, "--gpu", "cpu", "--gpus", "2"]), []);
    trains(&out, &path_of(&place, "run"));
}

#[test]
fn labels_in_a_tar_file_are_the_classes() {
    let place = tempfile::tempdir().unwrap();
    let (samples, shard) = (place.path().join("samples"), path_of(&place, "shard.tar"));
    pictures(&samples, 20, 20);
    (0..20).for_each(|number| std::fs::write(samples.join(format!("{number}.cls")), (number % 2).to_string()).unwrap());
    let mut tar = Command::new("tar");
    assert!(tar.args(["-cf", &shard, "-C"]).arg(&samples).args(names(&samples)).status().unwrap().success());
    let out = path_of(&place, "own.yaml");
    let finished = admiral(&["new", "--data", &shard, "--gpu", "cpu", "--out", &out]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let config = shown(&out);
    assert_eq!((&config["data"]["source"], &config["data"]["classes"]), (&"tar".into(), &"container".into()));
    assert_eq!(config["model"]["num_classes"], 2);
}

#[test]
fn without_a_file_the_configuration_is_printed() {
    let place = tempfile::tempdir().unwrap();
    let (data, out) = (path_of(&place, "my pictures"), path_of(&place, "own.yaml"));
    pictures(Path::new(&data), 10, 16);
    let finished = admiral(&["new", "--data", &data, "--gpu", "cpu", "--classes", "none"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("admiral train my-pictures.yaml"), "{}", finished.stderr);
    std::fs::write(&out, &finished.stdout).unwrap();
    let config = shown(&out);
    assert_eq!((&config["data"]["path"], &config["model"]["image_size"]), (&data.as_str().into(), &16.into()));
    let again = admiral(&["new", "--data", &data, "--gpu", "cpu", "--classes", "none"]);
    assert_eq!(finished.stdout, again.stdout);
}

#[test]
fn wrong_input_ends_with_one_message_and_writes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| path_of(&place, name);
    std::fs::create_dir(path("empty")).unwrap();
    pictures(&place.path().join("good"), 5, 16);
    std::fs::create_dir(path("broken")).unwrap();
    std::fs::write(path("broken/1.png"), "no picture").unwrap();
    std::fs::write(path("text.txt"), "no picture").unwrap();
    let (good, labels) = (path("good"), path("text.txt"));
    assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    let cases: [(&str, &[&str], &str); 12] = [
        (&path("absent"), &[], "check --data"),
        (&path("empty"), &[], "holds no jpg"),
        (&path("broken"), &[], "1.png"),
        (&path("text.txt"), &[], "no IDX file"),
        (&path("pipe"), &[], "neither a folder nor a file"),
        ("", &[], "--data is empty"),
        (&good, &["--labels", &labels], "is a folder"),
        (&good, &["--size", "31"], "--size is 31; it must be a multiple of 2"),
        (&good, &["--size", "0"], "--size is 0"),
        (&good, &["--classes", "folder"], "not in a folder"),
        (&good, &["--gpu", "k80"], "v100"),
        (&good, &["--gpu", "v100", "--gpus", "0"], "--gpus is 0"),
    ];
    let out = path("own.yaml");
    let before = names(place.path());
    for (data, more, part) in cases {
        let gpu: &[&str] = if more.contains(&"--gpu") { &[] } else { &["--gpu", "cpu"] };
        let finished = admiral(&[&["new", "--data", data, "--out", &out], gpu, more].concat());
        assert_eq!((finished.code, errors(&finished).len()), (Some(64), 1), "{data} {more:?}: {}", finished.stderr);
        assert!(errors(&finished)[0].contains(part), "no {part:?} in {}", finished.stderr);
        assert_eq!((names(place.path()), &*finished.stdout), (before.clone(), ""), "{data} {more:?}");
    }
    let taken = admiral(&["new", "--data", &good, "--gpu", "cpu", "--out", &labels]);
    assert_eq!((taken.code, errors(&taken).len()), (Some(64), 1), "{}", taken.stderr);
    assert!(taken.stderr.contains("exists, and is not replaced"), "{}", taken.stderr);
    assert_eq!(std::fs::read_to_string(&labels).unwrap(), "no picture");
    let nowhere = admiral(&["new", "--data", &good, "--gpu", "cpu", "--out", &path("absent/own.yaml")]);
    assert_eq!((nowhere.code, errors(&nowhere).len()), (Some(64), 1), "{}", nowhere.stderr);
    assert_eq!(names(place.path()), before);
}

fn names(folder: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn a_check_needs_a_valid_configuration_and_no_images() {
    let place = tempfile::tempdir().unwrap();
    let file = path_of(&place, "own.yaml");
    let write = |steps: &str, path: &str| {
        let text =
            format!("data: {{path: {path}}}\ntraining: {{steps: {steps}}}\ndiffusion: {{noise_schedule: cosine}}\n");
        std::fs::write(&file, text).unwrap();
    };
    write("500000", "/no/such/pictures");
    let check = |more: &[&str]| admiral(&[&["config", "check", &file], more].concat());
    let sound = check(&["--gpus", "8", "--gpu", "v100"]);
    assert_eq!(sound.code, Some(0), "{}{}", sound.stdout, sound.stderr);
    assert!(sound.stdout.contains("not checked: the images, because they cannot be opened here: /no/such/pictures"));
    write("100", "/no/such/pictures");
    let short = check(&["--gpus", "8", "--gpu", "v100"]);
    assert_eq!(short.code, Some(1), "{}{}", short.stdout, short.stderr);
    assert!(short.stdout.contains("optimizer.ema_rates: averages over 10000 steps"), "{}", short.stdout);
    let wrong = check(&["--set", "training.steps=0"]);
    assert_eq!((wrong.code, errors(&wrong).len(), &*wrong.stdout), (Some(64), 1, ""), "{}", wrong.stderr);
    let unknown = check(&["--gpu", "k80"]);
    assert_eq!((unknown.code, errors(&unknown).len()), (Some(64), 1), "{}", unknown.stderr);
    std::fs::create_dir(path_of(&place, "broken")).unwrap();
    std::fs::write(path_of(&place, "broken/1.png"), "no picture").unwrap();
    write("500000", &path_of(&place, "broken"));
    let broken = check(&["--gpus", "8", "--gpu", "v100"]);
    assert!(broken.code == Some(1) && broken.stdout.contains("1.png"), "{}{}", broken.stdout, broken.stderr);
}
