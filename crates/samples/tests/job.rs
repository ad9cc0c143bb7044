//! Jobs on folders and S3: kills at every store operation, NumPy as the reader, and damage.
#![allow(clippy::unwrap_used)]

#[path = "../../../tests/support/s3.rs"]
mod s3;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use admiral_samples::{Error, Images, Job, JobSettings, parts_of_rank};
use admiral_storage::{InjectedFaults, Location, PROBE, Store, StoreOptions};

use crate::s3::{S3, python};

// Tell a child of this test program where to work and before which operation to die.
const FOLDER: &str = "SAMPLES_TEST_FOLDER";
const PORT: &str = "SAMPLES_TEST_PORT";
const DIE: &str = "SAMPLES_TEST_DIE";

/// 7 images of 4 x 5 pixels in 3 parts.
fn settings() -> JobSettings {
    let settings = serde_json::json!({ "checkpoint": "abc", "sampler": { "name": "ddim", "steps": 25 }, "seed": 0.1 });
    JobSettings {
        num: 7,
        part_size: 3,
        shape: [4, 5, 3],
        has_labels: true,
        settings: settings.as_object().unwrap().clone(),
    }
}

/// The pixels and labels of a part.
fn drawn(settings: &JobSettings, part: u64) -> (Vec<u8>, Vec<i64>) {
    let images = settings.images_of(part);
    let bytes = settings.image_bytes() as u64;
    let pixels = (images.start * bytes..images.end * bytes).map(|place| (place * 7 % 251) as u8).collect();
    (pixels, images.map(|image| image as i64 * 100).collect())
}

fn write(job: &Job, part: u64) -> Result<(), Error> {
    let (pixels, labels) = drawn(job.settings(), part);
    job.write_part(part, &pixels, Some(&labels))
}

fn in_folder(folder: &Path) -> Store {
    Store::create(&Location::Folder(folder.to_owned()), &StoreOptions::default()).unwrap()
}

fn on_s3(port: u16, prefix: &str) -> Store {
    let backend = s3::builder(port).build().unwrap();
    Store::from_backend(Arc::new(backend), prefix.into(), &format!("s3://bucket/{prefix}")).unwrap()
}

/// Begins or continues a job and finishes it.
fn complete(store: &Store) {
    let job = Job::create_or_open(store, settings()).unwrap();
    for part in job.missing().unwrap() {
        write(&job, part).unwrap();
    }
    for part in job.missing_png().unwrap() {
        job.write_png(part).unwrap();
    }
    job.finish(true, &|_| ()).unwrap();
}

/// All files of a store with their bytes.
fn files(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let names = store.list_files("").unwrap().into_iter().map(|(name, _)| name);
    names.map(|name| (name.clone(), store.wait(store.get(&name)).unwrap().unwrap().to_vec())).collect()
}

/// The child of the tests of kills.
#[test]
#[ignore = "another test starts it"]
fn dying() {
    let die = std::env::var(DIE).unwrap().parse().unwrap();
    let folder = std::env::var(FOLDER).unwrap();
    let store = match std::env::var(PORT) {
        Ok(port) => on_s3(port.parse().unwrap(), &folder),
        Err(_) => in_folder(Path::new(&folder)),
    };
    complete(&store.with_faults(InjectedFaults { abort_before: Some(die), ..InjectedFaults::default() }));
}

/// Kills a job before each operation, and completes it. `store` returns the store of a child.
fn kill_everywhere(variables: impl Fn(&str) -> Vec<(&'static str, String)>, store: impl Fn(&str) -> Store) -> u64 {
    let undisturbed = store("undisturbed");
    complete(&undisturbed);
    let expected = files(&undisturbed);
    for operation in 1.. {
        let name = format!("dies-{operation}");
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "dying", "--ignored", "--nocapture"])
            .envs(variables(&name))
            .env(DIE, operation.to_string());
        let died = child.output().unwrap();
        let store = store(&name);
        // Everything that is visible is whole.
        for (file, bytes) in files(&store).into_iter().filter(|(file, _)| !file.starts_with(PROBE)) {
            assert!(expected[&file] == bytes, "operation {operation} leaves another {file}");
        }
        if died.status.success() {
            assert_eq!(files(&store), expected);
            return operation - 1;
        }
        complete(&store);
        assert!(files(&store) == expected, "operation {operation}");
    }
    unreachable!("a job has finitely many operations")
}

#[test]
fn a_job_in_a_folder_survives_a_kill_before_every_operation() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let variables = |name: &str| vec![(FOLDER, path(name).display().to_string())];
    let num = kill_everywhere(variables, |name| in_folder(&path(name)));
    assert!(num > 25, "only {num} operations");
}

#[test]
fn a_job_on_s3_survives_a_kill_before_every_operation() {
    let server = S3::start();
    let variables = |name: &str| vec![(FOLDER, name.to_owned()), (PORT, server.port.to_string())];
    let num = kill_everywhere(variables, |name| on_s3(server.port, name));
    assert!(num > 25, "only {num} operations");
}

#[test]
fn an_operation_that_fails_once_is_retried() {
    let root = tempfile::tempdir().unwrap();
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    // Rarer and rarer: assembly begins anew after a failure, and would not end if every fifth operation failed.
    let is_cut = move || (count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1).is_power_of_two();
    let faults = InjectedFaults { is_cut: Some(Arc::new(is_cut)), ..InjectedFaults::default() };
    complete(&in_folder(&root.path().join("faulty")).with_faults(faults));
    complete(&in_folder(&root.path().join("whole")));
    let of = |name: &str| files(&in_folder(&root.path().join(name)));
    assert!(of("faulty") == of("whole"));
}

#[test]
fn unpublished_files_of_killed_writers_are_removed() {
    let root = tempfile::tempdir().unwrap();
    complete(&in_folder(root.path()));
    std::fs::remove_file(root.path().join("manifest.json")).unwrap();
    let ours = ["job.json#1", "samples_7x4x5x3.npz#2", "parts/part-000000-of-000003.npz#1", "png/0000_000000.png#1"];
    let others = ["notes#1", "parts/notes#1", "samples_7x4x5x3.npz#x"];
    for name in ours.iter().chain(&others) {
        std::fs::write(root.path().join(name), "half").unwrap();
    }
    complete(&in_folder(root.path()));
    assert!(ours.iter().all(|name| !root.path().join(name).exists()));
    assert!(others.iter().all(|name| root.path().join(name).exists()));
}

#[test]
fn ranks_divide_the_missing_parts_and_write_the_same_file() {
    let root = tempfile::tempdir().unwrap();
    complete(&in_folder(&root.path().join("one")));
    let job = Job::create_or_open(&in_folder(&root.path().join("two")), settings()).unwrap();
    let missing = job.missing().unwrap();
    for rank in [1, 0] {
        for part in parts_of_rank(&missing, rank, 2) {
            write(&job, part).unwrap();
        }
    }
    let manifest = job.finish(true, &|_| ()).unwrap();
    let file = |name: &str| std::fs::read(root.path().join(name).join("samples_7x4x5x3.npz")).unwrap();
    assert!(file("one") == file("two"));
    assert_eq!(manifest.files[0].length, file("one").len() as u64);
    assert_eq!(job.manifest().unwrap(), Some(manifest));
}

#[test]
fn a_job_without_an_npz_file_has_a_manifest_and_gets_the_file_later() {
    let root = tempfile::tempdir().unwrap();
    let job = Job::create_or_open(&in_folder(root.path()), settings()).unwrap();
    for part in job.missing().unwrap() {
        write(&job, part).unwrap();
        job.write_png(part).unwrap();
    }
    // What a killed writer leaves behind.
    let left = root.path().join("png/0000_000000.png#1");
    std::fs::write(&left, "").unwrap();
    let manifest = job.finish(false, &|_| ()).unwrap();
    assert_eq!((manifest.parts.len(), manifest.files.len()), (3, 0));
    assert!(!left.exists());
    assert_eq!(job.finish(false, &|_| ()).unwrap(), manifest);
    assert_eq!(job.finish(true, &|_| ()).unwrap().files.len(), 1);
    // It stays in the manifest.
    assert_eq!(job.finish(false, &|_| ()).unwrap().files.len(), 1);
}

#[test]
fn a_part_is_written_again_only_with_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let job = Job::create_or_open(&in_folder(root.path()), settings()).unwrap();
    write(&job, 1).unwrap();
    write(&job, 1).unwrap();
    let before = job.read_part(1).unwrap();
    let (mut pixels, labels) = drawn(job.settings(), 1);
    assert_eq!((&before.pixels[..], before.labels.as_ref()), (&pixels[..], Some(&labels)));
    pixels[17] += 1;
    let error = job.write_part(1, &pixels, Some(&labels)).unwrap_err();
    assert!(matches!(error, Error::DifferentBytes { .. }), "{error}");
    assert_eq!(job.read_part(1).unwrap(), before);
    // Without its marker, the file does not count.
    std::fs::remove_file(root.path().join("parts/part-000001-of-000003.json")).unwrap();
    job.write_part(1, &pixels, Some(&labels)).unwrap();
    assert_eq!(job.read_part(1).unwrap().pixels, pixels);
    for (pixels, labels) in [(&pixels[1..], Some(&labels[..])), (&pixels[..], None), (&pixels[..], Some(&labels[1..]))]
    {
        assert!(matches!(job.write_part(1, pixels, labels), Err(Error::Part { .. })));
    }
    assert!(matches!(job.write_part(3, &[], Some(&[])), Err(Error::Part { .. })));
}

#[test]
fn a_part_of_another_job_is_not_taken() {
    let root = tempfile::tempdir().unwrap();
    let [folder, other] = ["one", "other"].map(|name| root.path().join(name));
    let job = Job::create_or_open(&in_folder(&folder), settings()).unwrap();
    let mut changed = settings();
    changed.settings["sampler"]["steps"] = 250.into();
    let changed = Job::create_or_open(&in_folder(&other), changed).unwrap();
    for job in [&job, &changed] {
        write(job, 1).unwrap();
    }
    let marker = "parts/part-000001-of-000003.json";
    let own = std::fs::read_to_string(folder.join(marker)).unwrap();
    std::fs::copy(other.join(marker), folder.join(marker)).unwrap();
    let error = job.read_part(1).unwrap_err().to_string();
    assert!(error.contains("it is of another job"), "{error}");
    // Older versions did not name the job.
    let unnamed: String = own.lines().filter(|line| !line.contains("\"job\"")).collect();
    assert!(unnamed.len() < own.len());
    std::fs::write(folder.join(marker), unnamed).unwrap();
    job.read_part(1).unwrap();
    write(&job, 1).unwrap();
}

#[test]
fn damaged_parts_are_found_and_drawn_again() {
    let root = tempfile::tempdir().unwrap();
    let store = in_folder(root.path());
    complete(&store);
    let expected = files(&store);
    let job = Job::open(&store).unwrap();
    assert_eq!(job.verify().unwrap(), [] as [u64; 0]);
    let part = |number: u64| root.path().join(format!("parts/part-00000{number}-of-000003.npz"));
    // A bit of a pixel, a missing end, a marker of another file.
    let mut bytes = std::fs::read(part(0)).unwrap();
    bytes[300] ^= 4;
    std::fs::write(part(0), bytes).unwrap();
    std::fs::write(part(1), "short").unwrap();
    std::fs::write(part(2).with_extension("json"), "{}").unwrap();
    assert_eq!(job.missing().unwrap(), [1]);
    assert!(matches!(job.finish(true, &|_| ()), Err(Error::Incomplete { missing: 1, .. })));
    assert_eq!(job.verify().unwrap(), [0, 1, 2]);
    assert_eq!(job.manifest().unwrap(), None);
    complete(&store);
    assert!(files(&store) == expected);
}

#[test]
fn assembling_withdraws_a_damaged_part() {
    let root = tempfile::tempdir().unwrap();
    let store = in_folder(root.path());
    complete(&store);
    let expected = files(&store);
    std::fs::remove_file(root.path().join("manifest.json")).unwrap();
    std::fs::remove_file(root.path().join("samples_7x4x5x3.npz")).unwrap();
    let part = root.path().join("parts/part-000001-of-000003.npz");
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[300] ^= 4;
    std::fs::write(part, bytes).unwrap();
    let job = Job::open(&store).unwrap();
    let error = job.finish(true, &|_| ()).unwrap_err();
    assert!(matches!(&error, Error::Damaged { url, .. } if url.contains("part-000001")), "{error}");
    assert!(!root.path().join("samples_7x4x5x3.npz").exists());
    assert_eq!(job.missing().unwrap(), [1]);
    complete(&store);
    assert!(files(&store) == expected);
}

#[test]
fn other_jobs_and_other_files_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = in_folder(root.path());
    Job::create_or_open(&store, settings()).unwrap();
    // The order of the fields does not matter.
    let mut other = settings();
    other.settings = other.settings.into_iter().rev().collect();
    Job::create_or_open(&store, other.clone()).unwrap();
    other.num = 8;
    other.settings["sampler"]["steps"] = 250.into();
    other.settings.remove("checkpoint");
    let error = Job::create_or_open(&store, other).unwrap_err().to_string();
    for line in
        ["number of images: 7 there, 8 here", "sampler.steps: 25 there, 250 here", "checkpoint: \"abc\" there, not set"]
    {
        assert!(error.lines().any(|found| found.contains(line)), "{error}");
    }
    assert_eq!(error.lines().count(), 4, "{error}");

    let refused = |name: &str, text: &str| {
        let folder = root.path().join("other");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), text).unwrap();
        let error = Job::create_or_open(&in_folder(&folder), settings()).unwrap_err();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "something was written");
        std::fs::remove_dir_all(&folder).unwrap();
        error
    };
    assert!(matches!(refused("notes.txt", "x"), Error::Occupied { found, .. } if found == "notes.txt"));
    for text in ["", "{}", "[1]", "{\"schema_version\": 1, \"job\": {}}", "{\"schema_version\": 2}"] {
        assert!(matches!(refused("job.json", text), Error::Schema { .. }), "{text}");
    }
    assert!(refused("job.json", "{\"schema_version\": 2}").to_string().contains("newer"));
    assert!(matches!(Job::open(&in_folder(&root.path().join("empty"))), Err(Error::NotFound { .. })));
}

#[test]
fn a_finished_job_is_a_source_of_images() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("job");
    let job = Job::create_or_open(&in_folder(&folder), settings()).unwrap();
    let (folder, options) = (folder.display().to_string(), StoreOptions::default());
    assert!(matches!(Images::open(&folder, &options), Err(Error::Incomplete { missing: 3, first: 0, .. })));
    complete(job.store());
    let all: Vec<u8> = (0..3).flat_map(|part| drawn(&settings(), part).0).collect();
    let npz = format!("{folder}/samples_7x4x5x3.npz");
    let upper = root.path().join("ALL.NPZ").display().to_string();
    std::fs::copy(&npz, &upper).unwrap();
    let digest = Images::open(&folder, &options).unwrap().digest();
    let without_parts = root.path().join("without-parts").display().to_string();
    complete(&in_folder(Path::new(&without_parts)));
    std::fs::remove_dir_all(format!("{without_parts}/parts")).unwrap();
    assert_eq!(Images::open(&without_parts, &options).unwrap().digest(), digest);
    for location in [folder.clone(), npz, upper, without_parts.clone()] {
        let mut images = Images::open(&location, &options).unwrap();
        assert_eq!((images.shape(), images.num()), ([4, 5, 3], 7));
        assert_eq!(images.labels().unwrap(), [0, 100, 200, 300, 400, 500, 600]);
        for range in [0..2, 2..7, 5..5, 1..4, 0..7] {
            let (start, end) = (range.start as usize * 60, range.end as usize * 60);
            assert!(images.read(range).unwrap() == all[start..end]);
        }
        assert!(matches!(images.read(5..8), Err(Error::Npz { .. })));
        images.verify(2).unwrap();
    }
    // Neither parts nor a whole file.
    std::fs::write(format!("{without_parts}/samples_7x4x5x3.npz"), "short").unwrap();
    assert!(matches!(Images::open(&without_parts, &options), Err(Error::Incomplete { missing: 3, .. })));
}

/// Reads a file as a stream, in the way of the published evaluator, and as a whole.
const READ: &str = r#"
import sys, zipfile
import numpy as np
from numpy.lib import format
file, count = sys.argv[1], int(sys.argv[2])
expected = (np.arange(420) * 7 % 251).astype(np.uint8).reshape(7, 4, 5, 3)
with zipfile.ZipFile(file) as archive:
    assert archive.testzip() is None
    with archive.open("arr_0.npy") as stream:
        assert format.read_magic(stream) == (1, 0)
        shape, fortran, dtype = format.read_array_header_1_0(stream)
        assert not fortran and dtype == np.uint8, dtype
        images = np.frombuffer(b"".join(iter(lambda: stream.read(50), b"")), np.uint8).reshape(shape)
first = int(sys.argv[3])
assert (images == expected[first:first + count]).all()
loaded = np.load(file)
assert (loaded["arr_0"] == images).all()
assert loaded["arr_1"].dtype == np.int64
assert loaded["arr_1"].tolist() == [100 * i for i in range(first, first + count)]
"#;

/// Runs Python code, which must succeed.
fn run_python(code: &str, arguments: &[&str]) {
    let output = Command::new(python()).args(["-c", code]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn numpy_reads_the_file_and_a_part() {
    let root = tempfile::tempdir().unwrap();
    complete(&in_folder(root.path()));
    let path = |name: &str| root.path().join(name).display().to_string();
    run_python(READ, &[&path("samples_7x4x5x3.npz"), "7", "0"]);
    run_python(READ, &[&path("parts/part-000002-of-000003.npz"), "1", "6"]);
}

#[test]
fn png_files_have_the_pixels() {
    let root = tempfile::tempdir().unwrap();
    complete(&in_folder(root.path()));
    let image = image_pixels(&std::fs::read(root.path().join("png/0400_000004.png")).unwrap());
    assert_eq!(image, drawn(&settings(), 1).0[60..120]);
    std::fs::remove_file(root.path().join("png/0400_000004.png")).unwrap();
    assert_eq!(Job::open(&in_folder(root.path())).unwrap().missing_png().unwrap(), [1]);
}

fn image_pixels(png: &[u8]) -> Vec<u8> {
    image::load_from_memory(png).unwrap().to_rgb8().into_raw()
}
