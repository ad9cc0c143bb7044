//! `admiral data`: pictures are packed, looked at, and trained on; wrong options leave nothing behind.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::clouds::{Azurite, Gcs};
use crate::mpirun::{Finished, run};
use crate::runs::{PATIENCE, Place, assert_same, errors};
use crate::s3::{S3, environment, python};

/// Writes 24 grey pictures of several sizes into folders of 3 classes.
fn pictures(folder: &Path) {
    for number in 0..24_u32 {
        let class = folder.join(["a", "b", "c"][number as usize % 3]);
        std::fs::create_dir_all(&class).unwrap();
        let (width, height) = (9 + number, 40 - number);
        let pixels: Vec<u8> = (0..width * height).map(|i| (i * i * (number + 3) % 241) as u8).collect();
        let file = std::fs::File::create(class.join(format!("{number:03}.png"))).unwrap();
        let encoder = image::codecs::png::PngEncoder::new(file);
        image::ImageEncoder::write_image(encoder, &pixels, width, height, image::ExtendedColorType::L8).unwrap();
    }
}

fn admiral(arguments: &[&str]) -> Finished {
    run(Command::new(env!("CARGO_BIN_EXE_admiral")).args(arguments), PATIENCE)
}

/// Runs a command, which must succeed. Returns its standard output.
fn text(arguments: &[&str]) -> String {
    let finished = admiral(arguments);
    assert_eq!(finished.code, Some(0), "{arguments:?}: {}{}", finished.stdout, finished.stderr);
    finished.stdout
}

/// `--set` for each of these fields.
fn set(fields: &[String]) -> Vec<String> {
    fields.iter().flat_map(|field| ["--set".to_owned(), field.clone()]).collect()
}

#[test]
fn a_run_on_packed_pictures_ends_with_the_same_bytes() {
    let place = Place::new();
    let path = |name: &str| place.path(name).to_str().unwrap().to_owned();
    pictures(&place.path("pictures"));
    let (source, out) = (path("pictures"), path("packed"));
    let pack = ["data", "pack", &source, "--classes", "folder", "--size", "8", "--out", &out];
    let said = text(&pack);
    assert!(said.contains("24 images") && said.contains("classes: container"), "{said}");
    // Once more: nothing is left to do.
    assert!(text(&pack).contains("24 images"));

    let train = |run: &str, source: &str, kind: &str, classes: &str| {
        let fields = [
            format!("data.path={source}"),
            format!("data.source={kind}"),
            format!("data.classes={classes}"),
            "data.label_path=null".into(),
            "training.steps=6".into(),
            "training.save_interval=6".into(),
        ];
        let fields = set(&fields);
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        // The configuration is valid with the packed images.
        text(&[&["config", "show", &path("tiny.yaml")], &fields[..]].concat());
        place.trained(1, run, &fields);
        place.tensors(run, 6)
    };
    let on_pictures = train("on-pictures", &source, "folder", "folder");
    assert_same(&on_pictures, &train("on-packed", &out, "tar", "container"));

    let show = |source: &str, more: &[&str]| -> Value {
        serde_json::from_str(&text(&[&["data", "show", source, "--json"], more].concat())).unwrap()
    };
    let sheet = path("sheet.png");
    let packed = show(&out, &["--all", "--sheet", &sheet, "--tiles", "5"]);
    let original = show(&source, &["--classes", "folder", "--samples", "7"]);
    for field in ["images", "classes", "order_sha256"] {
        assert_eq!(packed[field], original[field], "{field}");
    }
    assert_eq!((&packed["formats"]["pgm"], &packed["widths"]["most"]), (&24.into(), &8.into()));
    assert_eq!((&original["looked_at"], &original["is_decoded"]), (&7.into(), &false.into()));
    let sheet = image::open(sheet).unwrap();
    // Two rows of up to three images of 128 pixels, with 2 pixels around each.
    assert_eq!((sheet.width(), sheet.height()), (3 * 130 + 2, 2 * 130 + 2));

    // Only what is broken is named.
    std::fs::write(place.path("pictures/b/001.png"), b"broken").unwrap();
    let said = text(&["data", "show", &source, "--all"]);
    assert!(said.contains("broken      1\n") && said.contains("b/001.png: "), "{said}");
}

/// Packs pictures into a bucket and into a folder, and back. All files are the same.
fn shards_in_a_bucket_are_those_of_a_folder(url: &str, variables: &[(String, String)]) {
    let place = Place::new();
    let path = |name: &str| place.path(name).to_str().unwrap().to_owned();
    pictures(&place.path("pictures"));
    let in_cloud = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
        let finished = run(command.args(arguments).envs(variables.iter().cloned()), PATIENCE);
        assert_eq!(finished.code, Some(0), "{}{}", finished.stdout, finished.stderr);
        finished.stdout
    };
    let source = path("pictures");
    let options = ["--classes", "folder", "--size", "8"];
    for out in [url, &path("here/packed")] {
        in_cloud(&[&["data", "pack", &source, "--out", out], &options[..]].concat());
    }
    // A second time, the shards are found.
    assert!(in_cloud(&[&["data", "pack", &source, "--out", url], &options[..]].concat()).contains("24 images"));
    assert!(in_cloud(&["data", "show", url, "--all"]).contains("pgm 24"));
    // Packed again from the bucket, names, classes and files stay.
    in_cloud(&["data", "pack", url, "--out", &path("back/packed")]);
    let [here, back] = ["here", "back"].map(|name| place.path(name).join("packed/packed-000000.tar"));
    assert_eq!(std::fs::read(here).unwrap(), std::fs::read(back).unwrap());
}

#[test]
fn shards_on_s3_are_those_of_a_folder() {
    let server = S3::start();
    let variables = environment(server.port).map(|(name, value)| (name.to_owned(), value));
    shards_in_a_bucket_are_those_of_a_folder("s3://bucket/some/packed", &variables);
}

#[test]
fn shards_on_google_cloud_storage_are_those_of_a_folder() {
    let server = Gcs::start();
    shards_in_a_bucket_are_those_of_a_folder("gs://bucket/some/packed", &server.environment());
}

#[test]
fn shards_on_azure_are_those_of_a_folder() {
    let server = Azurite::start();
    shards_in_a_bucket_are_those_of_a_folder("az://bucket/some/packed", &server.environment());
}

#[test]
fn the_doctor_measures_and_names_what_limits_loading() {
    let place = Place::new();
    let config = place.path("tiny.yaml");
    let doctor =
        ["data", "doctor", config.to_str().unwrap(), "--images", "20", "--ranks", "2", "--gpu", "v100", "--json"];
    let report: Value = serde_json::from_str(&text(&doctor)).unwrap();
    let diagnosis = &report["diagnosis"];
    let rate = |name: &str| diagnosis[name].as_f64().unwrap();
    let least = rate("by_workers").min(rate("by_cores")).min(rate("by_fetching"));
    assert!(least > 0.0 && (rate("per_rank") - least).abs() < 1e-6 * least, "{diagnosis}");
    assert!(report["measured"]["needed"].as_f64().unwrap() > 0.0, "{report}");
    let is_limited = diagnosis["bottleneck"] != "none";
    assert_eq!(is_limited, rate("per_rank") < 1.2 * report["measured"]["needed"].as_f64().unwrap());
    assert!(text(&doctor[..doctor.len() - 1]).contains("bottleneck: "));
}

#[test]
fn wrong_options_are_one_message_and_leave_nothing() {
    let place = Place::new();
    let path = |name: &str| place.path(name).to_str().unwrap().to_owned();
    pictures(&place.path("pictures"));
    std::fs::create_dir(place.path("full")).unwrap();
    std::fs::write(place.path("full/notes.txt"), b"mine").unwrap();
    let (source, out) = (path("pictures"), path("new"));
    let refused = |arguments: &[&str], part: &str| {
        let finished = admiral(&[&["data"], arguments].concat());
        assert_eq!((finished.code, errors(&finished).len()), (Some(64), 1), "{}", finished.stderr);
        assert!(errors(&finished)[0].contains(part), "no {part:?} in {}", finished.stderr);
        assert!(!place.path("new").exists() && !place.path("pictures/.admiral").exists(), "{arguments:?}");
    };
    refused(&["pack", &path("none"), "--out", &out], "No such file");
    refused(&["pack", &source, "--out", &path("full")], "notes.txt");
    refused(&["pack", &source, "--out", &source], "no shard of this packing");
    refused(&["pack", &source, "--out", "ftp://x/y"], "ftp://");
    refused(&["pack", &source, "--out", &out, "--size", "0"], "--size: 0");
    refused(&["pack", &source, "--out", &out, "--format", "jpeg", "--quality", "101"], "--quality: 101");
    refused(&["pack", &source, "--out", &out, "--format", "keep", "--size", "8"], "--format: keep");
    refused(&["pack", &source, "--out", &out, "--classes", "folders"], "--classes");
    refused(&["pack", &source, "--out", &out, "--classes", "container"], "no label");
    refused(&["pack", &path("images"), "--source", "idx", "--out", &out], "--size: images of IDX files");
    refused(&["show", &path("none")], "No such file");
    refused(&["show", &source, "--samples", "0"], "--samples is 0");
    refused(&["show", &source, "--sheet", &path("new")], ".png");
    refused(&["doctor", &path("tiny.yaml"), "--ranks", "0"], "--ranks is 0");
    refused(&["doctor", &path("tiny.yaml"), "--gpu", "k80"], "k80");
    refused(&["doctor", &path("none.yaml")], "none.yaml");
    assert_eq!(std::fs::read(place.path("full/notes.txt")).unwrap(), b"mine");
}

#[test]
fn pictures_of_formats_that_are_not_read_are_counted() {
    let place = Place::new();
    let folder = place.path("mix");
    pictures(&folder);
    std::fs::rename(folder.join("a/000.png"), folder.join("a/000.APNG")).unwrap();
    for name in ["a/1.bmp", "b/2.TIFF", "c/3.heic", "c/.4.bmp"] {
        std::fs::write(folder.join(name), b"any").unwrap();
    }
    let pack = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).current_dir(&folder).status().unwrap().success(), "{program}");
    };
    pack("tar", &["--create", "--file", "../mix.tar", "a", "b", "c"]);
    pack(python().to_str().unwrap(), &["-m", "zipfile", "--create", "../mix.zip", "a", "b", "c"]);
    for source in ["mix", "mix.tar", "mix.zip"] {
        let finished = admiral(&["data", "show", place.path(source).to_str().unwrap(), "--all"]);
        assert_eq!(finished.code, Some(0), "{source}: {}", finished.stderr);
        assert!(finished.stdout.contains("images      24\n"), "{source}: {}", finished.stdout);
        let said = "3 images of formats that are not read are left out, the first is ";
        assert!(finished.stderr.contains(said), "{source}: {}", finished.stderr);
    }
}
