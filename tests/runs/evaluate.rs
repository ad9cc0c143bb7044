//! Comparisons of sets of images: the same numbers on any number of ranks and after interruptions, statistics that merge,
//! copies that are found, refusals, and evaluation while a run trains.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::mpirun::{Finished, Running, on_ranks, run};
use crate::runs::{PATIENCE, Place, assert_same, errors, wait_until};
use crate::s3::python;

/// Enough images that an evaluation of them takes much longer than a test may.
const VERY_MANY: &str = "evaluation.num_images=1000000";

/// A place with a trained classifier, whose features are compared.
struct Bench {
    place: Place,
}

/// Writes an IDX file of `count` grey images of 8x8 pixels that depend on `seed`.
fn write_images(path: &Path, count: u32, seed: u32) {
    let mut bytes = vec![0, 0, 8, 3];
    [count, 8, 8].iter().for_each(|n| bytes.extend(n.to_be_bytes()));
    // Smooth ramps of different directions, so that features differ.
    bytes.extend((0..count * 64).map(|i| {
        let (image, y, x) = (i / 64, i / 8 % 8, i % 8);
        let hash = (image.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)).wrapping_mul(2_246_822_519) >> 16;
        ((hash & 31) * x + (hash >> 5 & 31) * y + (hash >> 10 & 63)) as u8
    }));
    std::fs::write(path, bytes).unwrap();
}

impl Bench {
    fn new() -> Self {
        let place = Place::new();
        let short = ["--set", "training.steps=4", "--set", "training.save_interval=4", "--set", "task=classifier"];
        place.trained(1, "classifier", &short);
        Self { place }
    }

    fn path(&self, name: &str) -> String {
        self.place.path(name).to_str().unwrap().to_owned()
    }

    fn images(&self, name: &str, count: u32, seed: u32) -> String {
        write_images(&self.place.path(name), count, seed);
        self.path(name)
    }

    /// `admiral evaluate ARGUMENTS` on `ranks` ranks, with the classifier's features.
    fn evaluate(&self, ranks: usize, arguments: &[&str]) -> Finished {
        let mut command = on_ranks(ranks, env!("CARGO_BIN_EXE_admiral"));
        command.env_remove("ADMIRAL_INCEPTION").arg("evaluate").args(arguments);
        run(&mut command, PATIENCE)
    }

    fn with_classifier(&self, ranks: usize, arguments: &[&str]) -> Finished {
        let finished = self.evaluate(ranks, &[arguments, &["--features", &self.path("classifier")]].concat());
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished
    }

    /// The metrics of a comparison by name, in both modes.
    fn compared(&self, ranks: usize, samples: &str, reference: &str, work: &str) -> Value {
        let (out, work) = (self.path("out.json"), self.path(work));
        self.with_classifier(ranks, &[samples, "--reference", reference, "--out", &out, "--work", &work]);
        serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap()
    }

    fn refused(&self, arguments: &[&str], what: &str) {
        let finished = self.evaluate(1, &[arguments, &["--features", &self.path("classifier")]].concat());
        assert_eq!(finished.code, Some(64), "{arguments:?}: {}{}", finished.stdout, finished.stderr);
        let errors = errors(&finished);
        assert!(errors.len() == 1 && errors[0].contains(what), "{what}: {}", finished.stderr);
    }
}

fn metric(report: &Value, name: &str, mode: &str) -> f64 {
    let rows = report["metrics"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name} is in {rows:?}"));
    row[mode].as_f64().unwrap_or_else(|| panic!("{name} has {mode}"))
}

#[test]
fn a_comparison_is_the_same_on_any_number_of_ranks_and_after_an_interruption() {
    let bench = Bench::new();
    let (samples, reference) = (bench.images("a", 2500, 1), bench.images("b", 2200, 2));
    let alone = bench.compared(1, &samples, &reference, "work-1");
    // Features of these images lie so close to each other that float16 shows in precision and recall.
    for (name, tolerance) in [("fid", 1e-3), ("inception_score", 1e-3), ("precision", 0.1), ("recall", 0.1)] {
        let (adm, exact) = (metric(&alone, name, "adm"), metric(&alone, name, "exact"));
        assert!((adm - exact).abs() <= tolerance * exact.abs(), "{name}: {adm} {exact}");
    }
    assert!(
        metric(&alone, "fid", "exact") > 0.0 && metric(&alone, "fid_low", "exact") < metric(&alone, "fid", "exact")
    );
    assert!(alone["libtorch"].as_str().is_some_and(|version| version.starts_with("2.")), "{}", alone["libtorch"]);
    let warnings = alone["warnings"].to_string();
    assert!(warnings.contains("only 2500 images") && warnings.contains("only 2200 images"), "{warnings}");

    for ranks in [2, 3] {
        let shared = bench.compared(ranks, &samples, &reference, &format!("work-{ranks}"));
        assert_eq!(shared, alone, "on {ranks} ranks");
    }
    // An interrupted extraction leaves some of the parts.
    let work = bench.place.path("work-1");
    let folders: Vec<_> = std::fs::read_dir(&work).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(folders.len(), 2);
    for folder in &folders {
        std::fs::remove_file(folder.join("part-000001.safetensors")).unwrap();
    }
    assert_eq!(bench.compared(2, &samples, &reference, "work-1"), alone);
    // A damaged part is removed and named, and the next start computes it again.
    let part = folders[0].join("part-000000.safetensors");
    let mut bytes = std::fs::read(&part).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let classifier = bench.path("classifier");
    let work = bench.path("work-1");
    let arguments = [&samples, "--reference", &reference, "--work", &work, "--features", &classifier];
    let finished = bench.evaluate(1, &arguments);
    assert_eq!(finished.code, Some(69), "{}", finished.stderr);
    assert!(finished.stderr.contains("is damaged"), "{}", finished.stderr);
    assert_eq!(bench.compared(1, &samples, &reference, "work-1"), alone);
}

#[test]
fn statistics_of_parts_merge_to_those_of_the_whole() {
    let bench = Bench::new();
    let (samples, reference) = (bench.images("a", 1500, 1), bench.images("b", 1300, 2));
    // The same images in two files.
    let whole = std::fs::read(&reference).unwrap();
    for (name, images) in [("b1", 0..500), ("b2", 500..1300u32)] {
        let mut bytes = vec![0, 0, 8, 3];
        [images.end - images.start, 8, 8].iter().for_each(|n| bytes.extend(n.to_be_bytes()));
        bytes.extend(&whole[16 + 64 * images.start as usize..16 + 64 * images.end as usize]);
        std::fs::write(bench.place.path(name), bytes).unwrap();
        let (images, out) = (bench.path(name), bench.path(&format!("{name}.safetensors")));
        bench.with_classifier(2, &["statistics", &images, "--out", &out]);
    }
    let [first, second, merged] = ["b1", "b2", "merged"].map(|name| bench.path(&format!("{name}.safetensors")));
    let finished = bench.evaluate(1, &["merge", &first, &second, "--out", &merged]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains("statistics of 1300 images"), "{}", finished.stdout);

    let direct = bench.compared(1, &samples, &reference, "work");
    let by_statistics = bench.compared(1, &samples, &merged, "work");
    let (one, other) = (metric(&direct, "fid", "exact"), metric(&by_statistics, "fid", "exact"));
    assert!((one - other).abs() <= 1e-9 * one, "{one} {other}");
    assert!(by_statistics["reference"]["statistics"].is_string(), "{by_statistics}");

    let again = bench.evaluate(1, &["merge", &first, &merged, "--out", &bench.path("twice.safetensors")]);
    assert_eq!(again.code, Some(64));
    assert!(again.stderr.contains("each image counts once"), "{}", again.stderr);
    assert!(!bench.place.path("twice.safetensors").exists());
}

#[test]
fn planted_copies_are_found() {
    let bench = Bench::new();
    let (samples, reference) = (bench.images("a", 400, 1), bench.images("b", 300, 2));
    let (mut bytes, originals) = (std::fs::read(&samples).unwrap(), std::fs::read(&reference).unwrap());
    for (sample, original) in [(7usize, 42usize), (399, 0)] {
        bytes[16 + 64 * sample..16 + 64 * (sample + 1)].copy_from_slice(&originals[16 + 64 * original..][..64]);
    }
    std::fs::write(&samples, bytes).unwrap();
    let (out, json) = (bench.path("nearest.png"), bench.path("nearest.json"));
    let arguments =
        ["nearest", &samples, "--reference", &reference, "--out", &out, "--json", &json, "--neighbors", "3"];
    let finished = bench.with_classifier(1, &arguments);
    let found: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let pairs: Vec<(u64, u64)> = found["suspects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|suspect| (suspect["sample"].as_u64().unwrap(), suspect["image"].as_u64().unwrap()))
        .collect();
    for pair in [(7, 42), (399, 0)] {
        assert!(pairs.contains(&pair), "{pair:?} in {pairs:?}; {}", finished.stdout);
    }
    let png = std::fs::read(out).unwrap();
    let side = |at: usize| u32::from_be_bytes([png[at], png[at + 1], png[at + 2], png[at + 3]]);
    // 8 rows of a sample and 3 neighbors, of 8 pixels with 2 between and around them.
    assert_eq!((side(16), side(20)), (4 * 10 + 2, 8 * 10 + 2));
}

#[test]
fn what_cannot_be_compared_is_refused_and_nothing_is_written() {
    let bench = Bench::new();
    let (samples, reference) = (bench.images("a", 30, 1), bench.images("b", 30, 2));
    let script = "
import sys, numpy as np
folder = sys.argv[1]
def save(name, **arrays): np.savez(folder + '/' + name, **arrays)
images = np.zeros((30, 8, 8, 1), np.uint8)
save('float.npz', arr_0=images.astype(np.float32))
save('nchw.npz', arr_0=np.zeros((30, 1, 8, 8), np.uint8))
save('large.npz', arr_0=np.zeros((30, 16, 16, 1), np.uint8))
save('color.npz', arr_0=np.zeros((30, 8, 8, 3), np.uint8))
random = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 1), np.uint8)
save('three.npz', arr_0=random)
save('two.npz', arr_0=random[:2])
class Bomb:
    def __reduce__(self): return (open, (folder + '/executed', 'w'))
objects = np.empty(1, object); objects[0] = Bomb()
np.savez(folder + '/object.npz', arr_0=images, mu=objects, sigma=objects)
save('width.npz', mu=np.zeros(7), sigma=np.eye(7))
save('half.npz', mu=np.zeros(7))
whole = open(folder + '/color.npz', 'rb').read()
open(folder + '/cut.npz', 'wb').write(whole[:len(whole) // 2])
";
    let output = Command::new(python()).args(["-c", script]).arg(bench.place.folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (name, what) in [
        ("float.npz", "type <f4"),
        ("nchw.npz", "[N, height, width, channels]"),
        ("large.npz", "16 x 16"),
        ("color.npz", "3 channels"),
        ("three.npz", "at least 4"),
        ("object.npz", "never executed"),
        ("width.npz", "another network"),
        ("half.npz", "no sigma"),
        ("cut.npz", "zip"),
        ("missing.npz", "cannot be opened"),
    ] {
        bench.refused(&[&samples, "--reference", &bench.path(name)], what);
    }
    assert!(!bench.place.path("executed").exists(), "the pickle was executed");
    let [two, three] = ["two.npz", "three.npz"].map(|name| bench.path(name));
    let (picture, work) = (bench.path("nearest.png"), bench.path("work"));
    bench.refused(&["nearest", &samples, "--reference", &two, "--out", &picture, "--neighbors", "1"], "at least 3");
    bench.refused(&[&samples, "--reference", &reference, "--work", &three], "is not a folder");
    // No feature was computed.
    assert!(!bench.place.path("a.evaluation").exists());
    bench.refused(&[&samples, "--reference", &reference, "--out", &bench.path("out.txt")], "--out");

    let no_weights = bench.evaluate(1, &[&samples, "--reference", &reference]);
    assert_eq!(no_weights.code, Some(64));
    let text = &no_weights.stderr;
    assert!(text.contains("ADMIRAL_INCEPTION") && text.contains("pytorch-fid"), "{text}");
    bench.place.trained(1, "base", &["--set", "training.steps=2", "--set", "training.save_interval=2"]);
    let other = bench.evaluate(1, &[&samples, "--reference", &reference, "--features", &bench.path("base")]);
    assert_eq!(other.code, Some(64));
    assert!(other.stderr.contains("task diffusion"), "{}", other.stderr);

    // A series draws no image, and a run takes no step.
    bench.refused(&[&bench.path("base"), "--every", "2", "--reference", &three, "--work", &work], "only 3 images");
    assert!(!bench.place.path("work").exists());
    let settings = [
        format!("evaluation.features={}", bench.path("classifier")),
        format!("evaluation.reference={three}"),
        "evaluation.interval=2".into(),
        "evaluation.num_images=24".into(),
        "training.steps=2".into(),
    ];
    let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let finished = run(&mut bench.place.train(1, "few", &arguments), PATIENCE);
    assert_eq!(finished.code, Some(64), "{}", finished.stderr);
    assert!(finished.stderr.contains("three.npz: there are only 3 images"), "{}", finished.stderr);
}

#[test]
fn images_of_one_class_and_equal_images_are_warned_about() {
    let bench = Bench::new();
    let script = "
import sys, numpy as np
folder = sys.argv[1]
images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 1), np.uint8)
np.savez(folder + '/one.npz', arr_0=images, arr_1=np.zeros(40, np.int64))
np.savez(folder + '/several.npz', arr_0=images[::-1], arr_1=np.arange(40) % 2)
np.savez(folder + '/same.npz', arr_0=np.repeat(images[:1], 40, 0))
";
    let output = Command::new(python()).args(["-c", script]).arg(bench.place.folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let [one, several, same] = ["one.npz", "several.npz", "same.npz"].map(|name| bench.path(name));
    let warned = |samples: &str, reference: &str, work: &str| {
        bench.compared(1, samples, reference, work)["warnings"].to_string()
    };
    let warnings = warned(&one, &several, "work");
    assert!(warnings.contains("all images of the samples have the class 0"), "{warnings}");
    assert!(!warnings.contains("the same picture"), "{warnings}");
    let warnings = warned(&several, &same, "work");
    assert!(warnings.contains("all 40 images of the reference have the same features"), "{warnings}");
}

#[test]
fn a_run_that_evaluates_itself_trains_the_same_and_keeps_its_best_checkpoints() {
    let bench = Bench::new();
    let classifier = bench.path("classifier");
    let features = format!("evaluation.features={classifier}");
    let steps = ["--set", "training.steps=8", "--set", "training.save_interval=2"];
    bench.place.trained(2, "plain", &steps);
    let evaluated = [
        "--set",
        &features,
        "--set",
        "evaluation.interval=2",
        "--set",
        "evaluation.num_images=24",
        "--set",
        "checkpoint.keep_last=1",
        "--set",
        "checkpoint.keep_best=1",
    ];
    let finished = bench.place.trained(2, "evaluated", &[&steps[..], &evaluated].concat());
    assert!(finished.stderr.contains("ema-0.99: fid "), "{}", finished.stderr);
    assert_same(&bench.place.tensors("plain", 8), &bench.place.tensors("evaluated", 8));

    let fid = |average: &str| bench.place.curve("evaluated", &format!("evaluation/{average}/fid"));
    let (fast, slow) = (fid("ema-0.9"), fid("ema-0.99"));
    assert_eq!((fast.len(), slow.len()), (4, 4), "after steps 2, 4, 6 and 8");
    let best = (0..4).min_by(|&a, &b| fast[a].min(slow[a]).total_cmp(&fast[b].min(slow[b]))).unwrap() as u64;
    let best = 2 * (best + 1);
    assert!(bench.place.is_published("evaluated", best), "{fast:?} {slow:?}");
    let record = bench.place.path(&format!("evaluated/checkpoints/step-{best:09}/evaluation.json"));
    let record: Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    assert_eq!(record["num_images"], 24);
    let kept = (1..=4).filter(|step| bench.place.is_published("evaluated", 2 * step)).count();
    assert!(kept <= 3, "{kept} checkpoints are kept");
}

#[test]
fn the_checkpoints_of_a_run_are_evaluated_in_a_series_that_continues() {
    let bench = Bench::new();
    let steps = ["--set", "training.steps=6", "--set", "training.save_interval=2"];
    bench.place.trained(1, "base", &steps);
    let (run, work) = (bench.path("base"), bench.path("series"));
    let reference = bench.path("images");
    let series = [&run, "--every", "4", "--reference", &reference, "--num", "24", "--work", &work];
    bench.refused(&[&run, "--every", "5", "--reference", &reference, "--work", &work], "no checkpoint");
    bench.with_classifier(2, &series);
    let table = |name: &str| std::fs::read_to_string(bench.place.path("series").join(name)).unwrap();
    let rows = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
    };
    let found = rows(&table("sweep.csv"));
    let column = |name: &str| found[0].iter().position(|other| other == name).unwrap();
    assert_eq!(found.len(), 2, "only step 4 is a multiple of 4: {found:?}");
    assert_eq!(found[1][column("step")], "4");
    assert!(found[1][column("fid")].parse::<f64>().unwrap() > 0.0, "{found:?}");

    // More checkpoints continue the series, and keep what is there.
    let wider = [&run, "--every", "2", "--reference", &reference, "--num", "24", "--work", &work];
    let finished = bench.with_classifier(1, &wider);
    // The reference is prepared once for both new checkpoints.
    let of_reference = format!("parts of the features of {reference} are missing");
    assert_eq!(finished.stderr.matches(&of_reference).count(), 1, "{}", finished.stderr);
    let both = rows(&table("sweep.csv"));
    let steps: Vec<&str> = both[1..].iter().map(|row| row[column("step")].as_str()).collect();
    assert_eq!(steps, ["2", "4", "6"]);
    let of_step_4 = both.iter().find(|row| row[column("step")] == "4").unwrap();
    assert_eq!(of_step_4[column("fid")], found[1][column("fid")]);
    for picture in ["fid-steps.png", "fid-steps.svg", "sweep.png"] {
        assert!(bench.place.path("series").join(picture).is_file(), "{picture}");
    }
}

#[test]
fn a_missing_evaluation_of_the_checkpoint_is_made_up_when_the_run_goes_on() {
    let bench = Bench::new();
    let steps = |steps: &str| ["--set".to_owned(), format!("training.steps={steps}")];
    let features = format!("evaluation.features={}", bench.path("classifier"));
    let evaluated = [
        "--set",
        "training.save_interval=2",
        "--set",
        "evaluation.interval=2",
        "--set",
        "evaluation.num_images=24",
        "--set",
        &features,
        "--resume",
        "latest",
    ];
    for ranks in [1, 2] {
        let folder = format!("resumed-{ranks}");
        let trained = |steps: &[String; 2], more: &[&str]| {
            bench.place.trained(ranks, &folder, &[&steps.each_ref().map(String::as_str)[..], more].concat())
        };
        trained(&steps("2"), &[]);
        let record = |step: u64| bench.path(&format!("{folder}/checkpoints/step-{step:09}/evaluation.json"));
        assert!(!Path::new(&record(2)).exists());
        trained(&steps("4"), &evaluated);
        for step in [2, 4] {
            let text = std::fs::read(record(step)).unwrap_or_else(|error| panic!("step {step}: {error}"));
            assert_eq!(serde_json::from_slice::<Value>(&text).unwrap()["step"], step);
        }
    }
}

#[test]
fn a_request_to_stop_interrupts_an_evaluation_and_a_checkpoint_is_written() {
    let bench = Bench::new();
    let features = format!("evaluation.features={}", bench.path("classifier"));
    let settings = ["--set", &features, "--set", "evaluation.interval=2", "--set", VERY_MANY];
    let steps = ["--set", "training.steps=4", "--set", "training.save_interval=4"];
    for ranks in [1, 2] {
        let folder = format!("stopped-{ranks}");
        let mut command = bench.place.train(ranks, &folder, &[&settings[..], &steps].concat());
        let running = Running::start(&mut command);
        // The features of the reference are kept before the first step; the evaluation follows step 2 at once.
        let features = bench.place.path(&folder).join("evaluation");
        wait_until("the first evaluation is near", || features.is_dir());
        std::thread::sleep(Duration::from_secs(3));
        running.signal(libc::SIGTERM);
        let finished = running.finish(PATIENCE);
        // mpirun has its own code for a request to stop.
        let expected = if ranks == 1 { [75, 75] } else { [1, 75] };
        assert!(finished.code.is_some_and(|code| expected.contains(&code)), "{}{}", finished.stdout, finished.stderr);
        let steps = [1, 2, 3].into_iter().filter(|&step| bench.place.is_published(&folder, step)).count();
        assert_eq!(steps, 1, "{}", finished.stderr);
    }
}

#[test]
fn a_killed_comparison_continues_with_the_parts_that_are_there() {
    let bench = Bench::new();
    let (samples, reference) = (bench.images("a", 8000, 1), bench.images("b", 1100, 2));
    let whole = bench.compared(1, &samples, &reference, "whole");
    let (work, classifier) = (bench.path("killed"), bench.path("classifier"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
    command.args(["evaluate", &samples, "--reference", &reference, "--work", &work, "--features", &classifier]);
    let running = Running::start(&mut command);
    let parts = || -> usize {
        let folders = std::fs::read_dir(&work).into_iter().flatten().flatten();
        folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten()).count()
    };
    wait_until("the first part is there", || parts() >= 2);
    running.signal(libc::SIGKILL);
    running.finish(PATIENCE);
    assert_eq!(bench.compared(2, &samples, &reference, "killed"), whole);
}
