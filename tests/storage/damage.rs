//! Damage to the files of a real run's newest checkpoint: the run names it, resumes from the previous checkpoint, and
//! ends with the same bytes as an undisturbed run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::mpirun::{Finished, run};
use crate::runs::{PATIENCE, Place, assert_same, errors};
use crate::stores::{in_folder, tensors, verified_steps};

/// The steps of a run's checkpoints before the damage.
const STEPS: [u64; 4] = [2, 4, 6, 8];
const NEWEST: u64 = 8;
const LAST: u64 = 10;

/// A run with four checkpoints, and the tensors of an undisturbed run. No test changes it.
struct Original {
    place: Place,
    undisturbed: BTreeMap<String, Vec<u8>>,
}

fn original() -> &'static Original {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let place = Place::new();
        let four = ["--set", "training.steps=8", "--set", "training.save_interval=2"];
        place.trained(1, "run", &four);
        assert_eq!(verified_steps(&in_folder(&place.path("run/checkpoints"))), STEPS);
        place.trained(1, "straight", &["--set", "training.steps=10"]);
        let undisturbed = place.tensors("straight", LAST);
        Original { place, undisturbed }
    })
}

/// A copy of the original run, which a test may damage.
struct Copy {
    _folder: tempfile::TempDir,
    run: PathBuf,
}

impl Copy {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        copy(&original().place.path("run"), &run);
        Self { _folder: folder, run }
    }

    fn checkpoints(&self) -> PathBuf {
        self.run.join("checkpoints")
    }

    /// A file of the checkpoint of `step`.
    fn file(&self, step: u64, path: &str) -> PathBuf {
        self.checkpoints().join(format!("step-{step:09}")).join(path)
    }

    fn resume(&self, how: &str) -> Finished {
        // No save before the end, so that a damaged checkpoint is still there then.
        let arguments = ["--resume", how, "--set", "training.steps=10", "--set", "training.save_interval=100"];
        let mut command = original().place.train(1, "unused", &arguments);
        command.arg("--set").arg(format!("run.folder={}", self.run.display()));
        let finished = run(&mut command, PATIENCE);
        assert!(!finished.timed_out, "{}", finished.stderr);
        finished
    }

    /// Resumes from the checkpoint of `step`, and checks the end.
    fn resumes_from(&self, step: u64, what: &str) -> Finished {
        let finished = self.resume("latest");
        assert_eq!((finished.code, errors(&finished).len()), (Some(0), 0), "{what}: {}", finished.stderr);
        assert!(finished.stderr.contains(&format!("training steps {step} to {LAST}")), "{what}: {}", finished.stderr);
        assert_same(&original().undisturbed, &tensors(&in_folder(&self.checkpoints()), LAST));
        finished
    }

    /// Checks that the run names the damage of `file`, sets the newest checkpoint aside, and resumes from the previous
    /// one.
    fn falls_back(&self, file: &str, what: &str) {
        let finished = self.resumes_from(6, what);
        let path = self.file(NEWEST, file).display().to_string();
        let told: Vec<&str> = finished.stderr.lines().filter(|line| line.contains("IS DAMAGED")).collect();
        assert!(
            told.len() == 1 && told[0].contains("CHECKPOINT OF STEP 8") && told[0].contains(&path),
            "{what}: {}",
            finished.stderr
        );
        assert!(self.file(NEWEST, "manifest.damaged.json").is_file(), "{what}");
        assert_eq!(verified_steps(&in_folder(&self.checkpoints())), [2, 4, 6, LAST], "{what}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The bytes of every file under a folder.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(contents(&entry.path()));
        } else {
            found.insert(entry.path(), std::fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// The tensor files of the newest checkpoint of the original.
fn tensor_files() -> Vec<String> {
    let manifest = in_folder(&original().place.path("run/checkpoints")).checkpoint(NEWEST).unwrap().manifest().clone();
    let files: Vec<String> = manifest.files.into_iter().map(|file| file.path).collect();
    assert_eq!(files.len(), 5, "master, two averages and two moments");
    files
}

fn flip(file: &Path, place: impl Fn(usize) -> usize) {
    let mut bytes = std::fs::read(file).unwrap();
    let place = place(bytes.len());
    bytes[place] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

fn truncate(file: &Path, length: impl Fn(usize) -> usize) {
    let bytes = std::fs::read(file).unwrap();
    std::fs::write(file, &bytes[..length(bytes.len())]).unwrap();
}

#[test]
fn a_truncated_file_is_detected() {
    for (i, file) in tensor_files().iter().enumerate() {
        let copy = Copy::new();
        truncate(&copy.file(NEWEST, file), |length| [0, 7, length / 2, length - 1, length - 4][i]);
        copy.falls_back(file, "cut");
    }
}

#[test]
fn a_flipped_bit_is_detected_anywhere() {
    for file in tensor_files() {
        for (name, place) in [("start", 0.0), ("middle", 0.5), ("end", 1.0)] {
            let copy = Copy::new();
            flip(&copy.file(NEWEST, &file), |length| ((length - 1) as f64 * place) as usize);
            copy.falls_back(&file, name);
        }
    }
}

#[test]
fn a_missing_or_longer_file_is_detected() {
    for file in tensor_files() {
        let copy = Copy::new();
        std::fs::remove_file(copy.file(NEWEST, &file)).unwrap();
        copy.falls_back(&file, "missing");
    }
    let (copy, file) = (Copy::new(), &tensor_files()[2]);
    let mut bytes = std::fs::read(copy.file(NEWEST, file)).unwrap();
    bytes.push(0);
    std::fs::write(copy.file(NEWEST, file), bytes).unwrap();
    copy.falls_back(file, "longer");
}

/// Changes a manifest.
type OfManifest = dyn Fn(&str) -> String;

#[test]
fn an_incomplete_manifest_is_damage() {
    let damage: [(&str, &OfManifest); 6] = [
        ("empty", &|_| String::new()),
        ("half-written", &|text| text[..text.len() / 2].to_owned()),
        ("without its last brace", &|text| text.trim_end().trim_end_matches('}').to_owned()),
        ("not JSON", &|_| "<html>502 Bad Gateway</html>".into()),
        ("another document", &|_| "{\"step\": 8}".into()),
        ("of another tensor", &|text| text.replacen("\"time_embed.0.weight\"", "\"time_embed.0.weighs\"", 1)),
    ];
    for (what, damaged) in damage {
        let copy = Copy::new();
        let file = copy.file(NEWEST, "manifest.json");
        let text = std::fs::read_to_string(&file).unwrap();
        assert_ne!(damaged(&text), text);
        std::fs::write(&file, damaged(&text)).unwrap();
        copy.falls_back("manifest.json", what);
    }
}

#[test]
fn a_folder_without_manifest_is_no_checkpoint() {
    let copy = Copy::new();
    std::fs::remove_file(copy.file(NEWEST, "manifest.json")).unwrap();
    let finished = copy.resumes_from(6, "no manifest");
    // A warning says that latest.json named one.
    assert!(finished.stderr.contains("latest.json points to step 8"), "{}", finished.stderr);
}

#[test]
fn a_newer_manifest_is_refused_and_nothing_changes() {
    for how in ["latest", "auto", "8"] {
        let copy = Copy::new();
        let file = copy.file(NEWEST, "manifest.json");
        let text = std::fs::read_to_string(&file).unwrap();
        let version = admiral_checkpoints_schema::SCHEMA_VERSION;
        let newer = text.replacen(
            &format!("\"schema_version\": {version}"),
            &format!("\"schema_version\": {}, \"what nobody knows yet\": []", version + 1),
            1,
        );
        assert_ne!(newer, text);
        std::fs::write(&file, newer).unwrap();
        let before = contents(&copy.run);
        let refused = copy.resume(how);
        assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{how}: {}", refused.stderr);
        assert!(errors(&refused)[0].contains(&file.display().to_string()), "{}", refused.stderr);
        assert!(errors(&refused)[0].contains(&format!("version {}", version + 1)), "{}", refused.stderr);
        assert!(contents(&copy.run) == before, "{how} changes something");
    }
}

#[test]
fn a_wrong_or_missing_latest_json_has_no_effect() {
    let nowhere = "{\"schema_version\": 2, \"step\": 70, \"folder\": \"step-000000070\"}";
    let behind = "{\"schema_version\": 2, \"step\": 2, \"folder\": \"step-000000002\"}";
    for (what, text) in
        [("nowhere", Some(nowhere)), ("behind", Some(behind)), ("damaged", Some("{\"st")), ("missing", None)]
    {
        let copy = Copy::new();
        let file = copy.checkpoints().join("latest.json");
        match text {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let finished = copy.resumes_from(NEWEST, what);
        assert_eq!(finished.stderr.contains("points to step 70"), what == "nowhere", "{}", finished.stderr);
        let pointer: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(pointer["step"], LAST, "{what}");
    }
}

#[test]
fn the_order_of_names_and_unknown_names_have_no_effect() {
    let copy = Copy::new();
    // Create the folders again in another order, because the order of a listing depends on the file system.
    let checkpoints = copy.checkpoints();
    for step in [4, 8, 2, 6] {
        let name = checkpoints.join(format!("step-{step:09}"));
        let moved = checkpoints.join(format!("moved-{step}"));
        std::fs::rename(&name, &moved).unwrap();
        self::copy(&moved, &name);
        std::fs::remove_dir_all(&moved).unwrap();
    }
    // Each would be the newest checkpoint if its name were valid.
    for name in ["step-000000020x", "step-9", "step-+00000030", "xstep-000000040", "step-", "STEP-000000050"] {
        self::copy(&checkpoints.join("step-000000002"), &checkpoints.join(name));
    }
    std::fs::create_dir_all(checkpoints.join("step-000000060/master")).unwrap();
    std::fs::write(checkpoints.join("step-000000070"), "a file").unwrap();
    std::fs::write(checkpoints.join("manifest.json.txt"), "notes").unwrap();
    copy.resumes_from(NEWEST, "strange names");
}

/// Changes the length of a file's header and the header.
type OfHeader = dyn Fn(u64, String) -> (u64, String);

/// The checksum of the file is correct, but its header contradicts the manifest.
#[test]
fn a_header_that_contradicts_the_manifest_is_detected() {
    const TENSOR: &str = "\"time_embed.0.weight\"";
    let damage: [(&str, &OfHeader); 5] = [
        ("too long", &|_, header| (u64::MAX, header)),
        ("not JSON", &|length, header| (length, header.replacen('{', "[", 1))),
        ("of another tensor", &|length, header| (length, header.replacen(TENSOR, "\"time_embed.0.weighs\"", 1))),
        ("of another type", &|length, header| (length, header.replacen("\"F32\"", "\"I32\"", 1))),
        ("of another place", &|length, header| {
            (length, header.replacen("\"data_offsets\":[0,", "\"data_offsets\":[4,", 1))
        }),
    ];
    for (what, damaged) in damage {
        let (copy, name) = (Copy::new(), &tensor_files()[0]);
        let file = copy.file(NEWEST, name);
        let mut bytes = std::fs::read(&file).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let header = String::from_utf8(bytes[8..8 + length as usize].to_vec()).unwrap();
        let (new_length, new_header) = damaged(length, header.clone());
        assert_eq!(new_header.len(), header.len());
        bytes[..8].copy_from_slice(&new_length.to_le_bytes());
        bytes[8..8 + header.len()].copy_from_slice(new_header.as_bytes());
        let hexadecimal = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
        let manifest = std::fs::read_to_string(copy.file(NEWEST, "manifest.json")).unwrap();
        let sums = [&std::fs::read(&file).unwrap(), &bytes].map(|bytes| hexadecimal(bytes));
        assert!(sums[0] != sums[1] && manifest.contains(&sums[0]), "{what} changes the file");
        std::fs::write(copy.file(NEWEST, "manifest.json"), manifest.replace(&sums[0], &sums[1])).unwrap();
        std::fs::write(&file, bytes).unwrap();
        copy.falls_back(name, what);
    }
}

#[test]
fn two_damaged_checkpoints_in_a_row_are_skipped() {
    let files = tensor_files();
    let copy = Copy::new();
    flip(&copy.file(8, &files[4]), |length| length / 3);
    truncate(&copy.file(6, "manifest.json"), |length| length / 3);
    let finished = copy.resumes_from(4, "a file, then a manifest");
    for (step, file) in [(8, files[4].as_str()), (6, "manifest.json")] {
        assert!(finished.stderr.contains(&format!("STEP {step} IS DAMAGED")), "{}", finished.stderr);
        assert!(finished.stderr.contains(&copy.file(step, file).display().to_string()), "{}", finished.stderr);
    }
    assert_eq!(verified_steps(&in_folder(&copy.checkpoints())), [2, 4, LAST]);
}

#[test]
fn a_run_with_only_damaged_checkpoints_ends_and_keeps_its_files() {
    let file = &tensor_files()[0];
    for how in ["latest", "auto"] {
        let copy = Copy::new();
        for step in STEPS {
            flip(&copy.file(step, file), |length| length - 1);
        }
        let before = contents(&copy.checkpoints());
        // Several times, because the first failure must not make a later one start at step 0.
        for _ in 0..2 {
            let ended = copy.resume(how);
            assert_eq!((ended.code, errors(&ended).len()), (Some(64), 1), "{how}: {}", ended.stderr);
            assert!(errors(&ended)[0].contains("no checkpoint that is whole"), "{}", ended.stderr);
            assert!(errors(&ended)[0].contains(&copy.checkpoints().display().to_string()), "{}", ended.stderr);
        }
        let after = contents(&copy.checkpoints());
        for (path, bytes) in before.iter().filter(|(path, _)| path.file_name().unwrap() != "owner.json") {
            let aside = path.with_file_name("manifest.damaged.json");
            let is_there = after.get(path) == Some(bytes) || after.get(&aside) == Some(bytes);
            assert!(is_there, "{how} loses {}", path.display());
        }
    }
}

#[test]
fn a_damaged_step_requested_by_number_is_not_set_aside() {
    let (copy, file) = (Copy::new(), &tensor_files()[3]);
    flip(&copy.file(NEWEST, file), |length| length / 2);
    let ended = copy.resume("8");
    assert_eq!((ended.code, errors(&ended).len()), (Some(64), 1), "{}", ended.stderr);
    assert!(errors(&ended)[0].contains(&copy.file(NEWEST, file).display().to_string()), "{}", ended.stderr);
    assert!(copy.file(NEWEST, "manifest.json").is_file());
    assert!(!copy.file(NEWEST, "manifest.damaged.json").exists());
}

/// Ranks read different files, and only one of them reads the damaged one.
#[test]
fn two_ranks_resume_from_the_same_earlier_checkpoint() {
    let place = Place::new();
    let few = ["--set", "training.steps=4", "--set", "training.save_interval=2"];
    place.trained(2, "run", &few);
    place.trained(2, "straight", &["--set", "training.steps=6"]);
    let newest = place.path("run/checkpoints/step-000000004");
    for rank in [2, 1] {
        let start = format!("model-0000{rank}-of-00002-");
        let mut files = std::fs::read_dir(newest.join("adam-mean")).unwrap().map(|entry| entry.unwrap().path());
        let file = files.find(|path| path.file_name().unwrap().to_string_lossy().starts_with(&start)).unwrap();
        flip(&file, |length| length - 1);
        let on = ["--resume", "latest", "--set", "training.steps=6", "--set", "training.save_interval=100"];
        let finished = place.trained(2, "run", &on);
        let told: Vec<&str> = finished.stderr.lines().filter(|line| line.contains("IS DAMAGED")).collect();
        assert_eq!(told.len(), 1, "{}", finished.stderr);
        assert!(told[0].contains(&file.display().to_string()), "{}", finished.stderr);
        assert!(newest.join("manifest.damaged.json").is_file());
        assert_same(&place.tensors("straight", 6), &place.tensors("run", 6));
        // Start again, to damage only the other rank's file.
        std::fs::remove_dir_all(place.path("run")).unwrap();
        place.trained(2, "run", &few);
    }
}

#[test]
fn the_checkpoint_that_was_resumed_from_is_not_deleted() {
    let copy = Copy::new();
    flip(&copy.file(NEWEST, &tensor_files()[0]), |length| length / 2);
    let arguments = ["--resume", "latest", "--set", "training.steps=12", "--set", "training.save_interval=2"];
    let mut command = original().place.train(1, "unused", &arguments);
    command.args(["--set", "checkpoint.keep_last=1", "--set", &format!("run.folder={}", copy.run.display())]);
    let finished = run(&mut command, PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("training steps 6 to 12"), "{}", finished.stderr);
    assert_eq!(verified_steps(&in_folder(&copy.checkpoints())), [6, 12]);
}
