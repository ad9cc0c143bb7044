//! Sweeps: each cell equals the job that is drawn alone, also after a kill, and a second start only draws what is missing.

use std::path::PathBuf;
use std::process::Command;

use crate::mpirun::{Finished, Running, on_ranks, run};
use crate::runs::{PATIENCE, Place, errors, wait_until};

const NUM: &str = "12";

/// A place with a trained model, a classifier and a sweep.
struct Sweep {
    place: Place,
}

impl Sweep {
    fn new() -> Self {
        let place = Place::new();
        let short = ["--set", "training.steps=4", "--set", "training.save_interval=2"];
        place.trained(1, "base", &short);
        place.trained(1, "classifier", &[&short[..], &["--set", "task=classifier"]].concat());
        let folder = place.folder.path().display();
        let spec = format!(
            "checkpoints: [{folder}/base]\nguidance: {{kind: classifier, checkpoint: {folder}/classifier}}\n\
             num: {NUM}\nseed: 7\nclasses: balanced\nbatch_size: 4\npart_images: 4\nthreads: 1\nstrip_images: 3\n\
             lists: {{samplers: [ddpm, dpmpp_2m], steps: [3]}}\ninclude: {folder}/lists.yaml\nout: {folder}/sweep\n"
        );
        std::fs::write(place.path("sweep.yaml"), spec).unwrap();
        std::fs::write(place.path("lists.yaml"), "scales: [0.5, 2]\nrespacings: ['60,40']\n").unwrap();
        Self { place }
    }

    fn command(&self, ranks: usize, arguments: &[&str]) -> Command {
        let mut command = on_ranks(ranks, env!("CARGO_BIN_EXE_admiral"));
        command.arg("sweep").arg(self.place.path("sweep.yaml")).args(arguments);
        command
    }

    fn swept(&self, ranks: usize, arguments: &[&str]) -> Finished {
        let finished = run(&mut self.command(ranks, arguments), PATIENCE);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished
    }

    /// The folders of the cells whose names start with `start`.
    fn cells(&self, start: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.place.path("sweep")).unwrap().flatten();
        let is_one = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(start);
        let mut cells: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|p| p.is_dir() && is_one(p)).collect();
        cells.sort();
        cells
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.place.path(name)).unwrap()
    }
}

#[test]
fn the_cells_of_a_sweep_equal_jobs_that_are_drawn_alone() {
    let sweep = Sweep::new();
    // Killed in the middle of its first cell.
    let running = Running::start(&mut sweep.command(1, &[]));
    wait_until("a part is there", || {
        sweep.place.path("sweep").exists()
            && sweep.cells("ddpm").iter().any(|cell| {
                let parts = std::fs::read_dir(cell.join("parts"));
                parts.is_ok_and(|parts| {
                    parts.flatten().any(|entry| entry.path().extension().is_some_and(|e| e == "json"))
                })
            })
    });
    running.kill();
    drop(running);
    let finished = sweep.swept(2, &[]);
    assert_eq!(finished.stdout.lines().count(), 5, "{}", finished.stdout);

    let solvers = [
        ("ddpm-60_40", ["--sampler", "ddpm", "--respacing", "60,40"]),
        ("dpmpp_2m-3", ["--sampler", "dpmpp_2m", "--steps", "3"]),
    ];
    let guidance = format!("classifier={}", sweep.place.path("classifier").display());
    for (name, solver) in solvers {
        for scale in ["0.5", "2"] {
            let cells = sweep.cells(&format!("{name}-scale{scale}-"));
            let [cell] = cells.as_slice() else { panic!("{cells:?}") };
            let job = |out: &PathBuf| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
                command.arg("sample").arg(sweep.place.path("base")).args(["--num", NUM, "--seed", "7"]).args(solver);
                command.args(["--guidance", &guidance, "--scale", scale, "--classes", "balanced", "--threads", "1"]);
                command.args(["--batch-size", "4", "--part-images", "4", "--out"]).arg(out);
                let finished = run(&mut command, PATIENCE);
                assert_eq!(finished.code, Some(0), "{}", finished.stderr);
                finished
            };
            let alone = sweep.place.path(&format!("alone-{name}-{scale}"));
            job(&alone);
            let file = format!("samples_{NUM}x8x8x1.npz");
            let [own, other] = [cell, &alone].map(|folder| std::fs::read(folder.join(&file)).unwrap());
            assert!(own == other, "{name} with scale {scale} draws other images alone");
            // It is the same job: `sample` continues it, and has nothing to do.
            assert!(job(cell).stderr.contains("0 of 3 parts are missing"));
        }
    }

    // Four cells of three images, with borders of two pixels.
    let picture = image::load_from_memory(&sweep.read("sweep/sweep.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (3 * 10 + 2, 4 * 10 + 2));
    let table: serde_json::Value = serde_json::from_slice(&sweep.read("sweep/sweep.json")).unwrap();
    let rows = table["rows"].as_array().unwrap();
    let evaluations: Vec<u64> = rows.iter().map(|row| row["evaluations"].as_u64().unwrap()).collect();
    assert_eq!(evaluations, [100, 100, 3, 3]);
    assert!(rows.iter().all(|row| row["images_per_second"].as_f64().unwrap() > 0.0), "{table}");

    // A second start draws nothing and keeps the table with its speeds.
    let before = ["sweep/sweep.csv", "sweep/sweep.json", "sweep/sweep.png"].map(|name| sweep.read(name));
    let again = sweep.swept(1, &[]);
    assert_eq!(again.stderr.matches("0 of 3 parts are missing").count(), 4, "{}", again.stderr);
    assert_eq!(["sweep/sweep.csv", "sweep/sweep.json", "sweep/sweep.png"].map(|name| sweep.read(name)), before);

    // Another sweep in the same place keeps the rows of the cells that it does not have.
    sweep.swept(1, &["--set", "lists.steps=[4]"]);
    let longer: serde_json::Value = serde_json::from_slice(&sweep.read("sweep/sweep.json")).unwrap();
    let longer = longer["rows"].as_array().unwrap();
    assert_eq!(longer.len(), 6, "{longer:?}");
    assert!(rows.iter().all(|row| longer.contains(row)), "{longer:?}");
    assert_eq!(String::from_utf8(sweep.read("sweep/sweep.csv")).unwrap().lines().count(), 1 + 6);
}

#[test]
fn each_cell_is_evaluated_and_plotted() {
    let sweep = Sweep::new();
    let folder = sweep.place.folder.path().display().to_string();
    // Other images of the same model.
    let mut sample = Command::new(env!("CARGO_BIN_EXE_admiral"));
    sample.arg("sample").arg(sweep.place.path("base")).args(["--num", "20", "--seed", "1", "--respacing", "10"]);
    sample.args(["--sampler", "ddpm", "--threads", "1", "--out"]).arg(sweep.place.path("reference"));
    let drawn = run(&mut sample, PATIENCE);
    assert_eq!(drawn.code, Some(0), "{}", drawn.stderr);
    let evaluate = format!("evaluate={{reference: {folder}/reference, features: {folder}/classifier}}");
    let arguments = ["--set", &evaluate, "--set", "lists.steps=[3, 6]"];
    let swept = sweep.swept(2, &arguments);
    let header = swept.stdout.lines().next().unwrap();
    for word in ["FID", "sFID", "IS", "precision", "recall"] {
        assert!(header.split_whitespace().any(|found| found == word), "{header}");
    }

    let csv = String::from_utf8(sweep.read("sweep/sweep.csv")).unwrap();
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert!(csv.lines().next().unwrap().ends_with(",fid,sfid,inception_score,precision,recall"), "{csv}");
    // ddpm and two numbers of steps, with two scales.
    assert_eq!(lines.len(), 1 + 6, "{csv}");
    let table: serde_json::Value = serde_json::from_slice(&sweep.read("sweep/sweep.json")).unwrap();
    for row in table["rows"].as_array().unwrap() {
        let metrics = &row["evaluated"]["metrics"];
        assert!(metrics["fid"].as_f64().unwrap() >= 0.0, "{row}");
        assert!((0.0..=1.0).contains(&metrics["precision"].as_f64().unwrap()), "{row}");
        assert!(row["evaluated"]["report"]["features"]["weights"].is_string(), "{row}");
    }
    // Alone, the images of a cell have the same FID.
    let cell = table["rows"][0]["location"].as_str().unwrap();
    let mut alone = Command::new(env!("CARGO_BIN_EXE_admiral"));
    alone.args(["evaluate", cell, "--reference", &format!("{folder}/reference"), "--mode", "exact", "--threads", "1"]);
    alone.args(["--features", &format!("{folder}/classifier"), "--out"]).arg(sweep.place.path("alone.json"));
    let alone = run(&mut alone, PATIENCE);
    assert_eq!(alone.code, Some(0), "{}", alone.stderr);
    let report: serde_json::Value = serde_json::from_slice(&sweep.read("alone.json")).unwrap();
    let fid = report["metrics"].as_array().unwrap().iter().find(|row| row["name"] == "fid").unwrap();
    assert_eq!(fid["exact"], table["rows"][0]["evaluated"]["metrics"]["fid"]);

    // The few images have the same recall in all cells, so there may be no plot of precision against it.
    for name in ["fid-scale", "fid-evaluations", "fid-seconds"] {
        let png = image::load_from_memory(&sweep.read(&format!("sweep/{name}.png"))).unwrap();
        assert!(png.width() > png.height(), "{name}");
        let svg = String::from_utf8(sweep.read(&format!("sweep/{name}.svg"))).unwrap();
        assert!(svg.contains("scale 0.5") || svg.contains("dpmpp_2m, 3 timesteps"), "{name}: {svg}");
    }

    // A second start evaluates nothing, and keeps the table.
    let names = ["sweep.csv", "sweep.json", "fid-scale.png", "fid-seconds.svg"].map(|name| format!("sweep/{name}"));
    let before = names.each_ref().map(|name| sweep.read(name));
    let again = sweep.swept(1, &arguments);
    assert!(!again.stderr.contains("parts of the features"), "{}", again.stderr);
    assert_eq!(names.each_ref().map(|name| sweep.read(name)), before);

    // Cells that were evaluated in another way are not mixed with those of another sweep.
    let other = format!("evaluate={{reference: {folder}/reference, features: {folder}/classifier, mode: adm}}");
    let refused = run(&mut sweep.command(1, &["--set", &other]), PATIENCE);
    assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{}", refused.stderr);
    assert!(refused.stderr.contains("mode: \"exact\" there, \"adm\" here"), "{}", refused.stderr);
    assert_eq!(names.each_ref().map(|name| sweep.read(name)), before);

    // A reference that is not there is refused before anything is drawn.
    let wrong = format!("evaluate={{reference: {folder}/nothing, features: {folder}/classifier}}");
    let mut command = sweep.command(1, &["--set", &wrong, "--set", &format!("out={folder}/other")]);
    let refused = run(&mut command, PATIENCE);
    assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{}", refused.stderr);
    assert!(!refused.stderr.contains("data.path"), "{}", refused.stderr);
    assert!(!sweep.place.path("other").exists());
}

#[test]
fn a_sweep_with_an_invalid_cell_draws_nothing() {
    let sweep = Sweep::new();
    for (change, words) in [
        ("lists.scales=[1, 2000]", ["ddpm-60_40-scale2000-", "--scale"]),
        ("lists.steps=[3, 5000]", ["dpmpp_2m-5000-scale0.5-", "sampling.steps"]),
        ("lists.respacings=[\"ddim999\"]", ["ddpm-ddim999-", "timestep_respacing"]),
        ("part_images=6", ["ddpm-60_40-scale0.5-", "--part-images"]),
        ("lists.samplers=[]", ["lists.samplers", "name a sampler"]),
        ("strip_images=0", ["strip_images", "[1, 64]"]),
    ] {
        let refused = run(&mut sweep.command(1, &["--set", change]), PATIENCE);
        assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{change}: {}", refused.stderr);
        for word in words {
            assert!(refused.stderr.contains(word), "{change} names {word}: {}", refused.stderr);
        }
        assert!(!refused.stderr.contains("fused operations"), "{change}: {}", refused.stderr);
        assert!(!sweep.place.path("sweep").exists(), "{change}");
    }
    // Nor is anything written into the place of something else.
    let run_folder = sweep.place.path("base");
    let out = format!("out={}", run_folder.display());
    let refused = run(&mut sweep.command(1, &["--set", &out]), PATIENCE);
    assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{}", refused.stderr);
    assert!(refused.stderr.contains("is the place of a training run"), "{}", refused.stderr);
    assert!(!run_folder.join("sweep.json").exists());
}
