//! The images of a run: ranks must have the same ones, a resumed run must have those of its checkpoint, and broken images are
//! listed.

use std::path::Path;

use crate::mpirun::{Finished, Running, run};
use crate::runs::{PATIENCE, Place, assert_same, errors, wait_until};

/// Writes gray pictures of 8 x 8 pixels.
fn write_pictures(folder: &Path, names: &[&str]) {
    std::fs::create_dir_all(folder).unwrap();
    for (number, name) in names.iter().enumerate() {
        let file = std::fs::File::create(folder.join(name)).unwrap();
        let encoder = image::codecs::png::PngEncoder::new(file);
        let pixels = [(40 * number) as u8; 64];
        image::ImageEncoder::write_image(encoder, &pixels, 8, 8, image::ExtendedColorType::L8).unwrap();
    }
}

/// The arguments of a run of 3 steps on pictures whose classes are in their names.
fn on_pictures(folder: &Path) -> Vec<String> {
    let fields = ["data.source=folder", "data.classes=file_name", "data.label_path=null", "training.steps=3"];
    let path = format!("data.path={}", folder.display());
    fields.into_iter().chain([path.as_str()]).flat_map(|field| ["--set".to_owned(), field.to_owned()]).collect()
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn refused(finished: &Finished, parts: &[&str]) {
    assert!(!finished.timed_out, "it hangs: {}", finished.stderr);
    assert_eq!(finished.code, Some(64), "{}", finished.stderr);
    let [error] = errors(finished)[..] else { panic!("{}", finished.stderr) };
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn ranks_with_other_images_are_refused_with_the_first_name_that_differs() {
    let place = Place::new();
    let names = ["a_1.png", "a_2.png", "b_1.png", "c_1.png"];
    write_pictures(&place.path("pictures.0"), &names);
    write_pictures(&place.path("pictures.1"), &["a_1.png", "a_2.png", "b_7.png", "c_1.png"]);
    // As on hosts with files of their own, the same path names other files on each rank.
    let each_its_own = ["sh", "-c", "cd \"$0.${OMPI_COMM_WORLD_RANK:-0}\" && exec \"$@\""];
    let pictures = place.path("pictures");
    let starter = [&each_its_own[..], &[pictures.to_str().unwrap()]].concat();
    let arguments = on_pictures(Path::new("."));
    let train = |ranks| run(&mut place.train_through(&starter, ranks, "new", &words(&arguments)), PATIENCE);
    refused(&train(2), &["rank 1", "training image 2 is the first", "b_7.png, class 1 \"b\" on rank 1", "b_1.png"]);
    std::fs::remove_file(place.path("pictures.1/b_7.png")).unwrap();
    std::fs::rename(place.path("pictures.1/c_1.png"), place.path("pictures.1/b_1.png")).unwrap();
    refused(&train(2), &["3 in 2 classes, and rank 0 4 in 3 classes", "image 3", "no such image on rank 1", "c_1.png"]);
    assert!(!place.path("new").exists());
}

#[test]
fn a_resumed_run_whose_images_have_changed_is_refused_unless_told_otherwise() {
    let place = Place::new();
    place.trained(1, "run", &["--set", "training.steps=2"]);
    let before = place.tensors("run", 2);
    let mut labels = std::fs::read(place.path("labels")).unwrap();
    *labels.last_mut().unwrap() = 1;
    std::fs::write(place.path("labels"), labels).unwrap();
    let resumed = ["--resume", "latest", "--set", "training.steps=4"];
    let finished = run(&mut place.train(2, "run", &resumed), PATIENCE);
    refused(&finished, &["64 images, as now, with other names, classes or order", "data.on_changed_images: accept"]);
    assert_same(&before, &place.tensors("run", 2));
    assert!(!place.is_published("run", 4));

    let accepted = [&resumed[..], &["--set", "data.on_changed_images=accept"]].concat();
    let finished = place.trained(2, "run", &accepted);
    assert!(finished.stderr.contains("goes on with the images that are there now"), "{}", finished.stderr);
    // The new checkpoint is of the new images.
    place.trained(1, "run", &["--resume", "latest", "--set", "training.steps=5"]);
}

#[test]
fn quarantined_images_are_listed_once_with_reason_and_hash() {
    let place = Place::new();
    let pictures = place.path("pictures");
    write_pictures(&pictures, &["a_0.png", "b_1.png", "c_2.png", "a_3.png", "b_4.png", "c_5.png"]);
    let torn = b"\x89PNG\r\n\x1a\n and no more";
    std::fs::write(pictures.join("b_torn.png"), torn).unwrap();
    let arguments = on_pictures(&pictures);
    let arguments = [&words(&arguments)[..], &["--set", "data.on_broken_image=quarantine"]].concat();
    place.trained(2, "run", &arguments);
    let list = || std::fs::read_to_string(place.path("run/broken-images.jsonl")).unwrap();
    let before = list();
    let image: serde_json::Value = serde_json::from_str(before.strip_suffix('\n').unwrap()).unwrap();
    assert_eq!(image["image"], "b_torn.png, class 1 \"b\"");
    assert!(image["reason"].as_str().unwrap().contains("b_torn.png cannot be decoded"), "{image}");
    assert_eq!(image["length"], torn.len());
    // By coreutils' sha256sum.
    assert_eq!(image["sha256"], "4da1632e19b199886ffd9166012cb425bb945bdc8d4a90d0df230a70975ac75e");
    assert_eq!(place.curve("run", "broken_images"), [1.0; 3]);
    // Another rank meets it again.
    place.trained(1, "run", &[&arguments[..], &["--resume", "latest", "--set", "training.steps=6"]].concat());
    assert_eq!(list(), before);
}

#[test]
fn a_disk_that_does_not_answer_does_not_hold_up_a_run_that_lists_broken_images() {
    let place = Place::new();
    let pictures = place.path("pictures");
    write_pictures(&pictures, &["a_0.png", "b_1.png", "c_2.png"]);
    let sound = std::fs::read(pictures.join("a_0.png")).unwrap();
    // So many that new broken ones are met in every step.
    for number in 0..1500 {
        std::fs::write(pictures.join(format!("a_sound{number}.png")), &sound).unwrap();
        std::fs::write(pictures.join(format!("b_torn{number}.png")), &sound[..20]).unwrap();
    }
    let checkpoints = format!("checkpoint.url={}", place.path("checkpoints").display());
    let fields = ["data.on_broken_image=quarantine", "training.steps=300", "training.save_interval=300", &checkpoints];
    let more: Vec<&str> = fields.into_iter().flat_map(|field| ["--set", field]).collect();
    let arguments = on_pictures(&pictures);
    let mut command = place.train(1, "run", &[&words(&arguments)[..], &more].concat());
    let flag = place.path("frozen");
    command.env("LD_PRELOAD", place.frozen_disk()).env("FROZEN_PROGRAM", "admiral");
    command.env("FROZEN_FLAG", &flag).env("FROZEN_FOLDER", place.path("run"));
    let running = Running::start(&mut command);
    wait_until("broken images are listed", || place.path("run/broken-images.jsonl").exists());
    std::fs::write(&flag, "").unwrap();
    let finished = running.finish(PATIENCE);
    assert!(!finished.timed_out, "it waits for the disk: {}", finished.stderr);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("not all of them are listed"), "{}", finished.stderr);
    assert!(place.path("checkpoints/step-000000300/manifest.json").is_file());
}

#[test]
fn a_list_of_broken_images_that_is_a_pipe_is_refused_in_words() {
    let place = Place::new();
    std::fs::create_dir(place.path("run")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(place.path("run/broken-images.jsonl")).status().unwrap();
    assert!(made.success());
    let quarantine = ["--set", "data.on_broken_image=quarantine", "--set", "training.steps=2"];
    let finished = place.trained(1, "run", &quarantine);
    assert!(finished.stderr.contains("broken-images.jsonl: it is a pipe"), "{}", finished.stderr);
}
