//! Kills a run at each store operation of a save in turn. A second run then continues from the files that are left.

use std::path::Path;
use std::process::Command;

use admiral_checkpoint::Catalog;

use crate::mpirun::run;
use crate::runs::{PATIENCE, Place, assert_same, errors};
use crate::s3::{S3, environment};
use crate::stores::{Tensors, in_folder, on_s3, tensors, verified_steps};

/// The steps of a run. Each is saved, and each save except the first deletes the previous checkpoint.
const STEPS: u64 = 3;

/// The step whose save is interrupted.
const INTERRUPTED_STEP: u64 = 2;

/// The operations at which runs die.
#[derive(Debug, Clone, Copy)]
pub struct Walk {
    /// The number of ranks.
    pub ranks: usize,
    /// The rank that dies.
    pub die_rank: usize,
    /// Whether checkpoints are on S3.
    pub is_on_s3: bool,
    /// 1 for every operation, n for every n-th one.
    pub stride: usize,
}

/// The folders and the server of all runs of a walk.
struct Ground {
    walk: Walk,
    place: Place,
    s3: Option<S3>,
    undisturbed: Tensors,
}

impl Walk {
    /// Interrupts and continues a run at each operation. Returns the number of operations.
    pub fn over_all(self) -> usize {
        let ground = Ground::new(self);
        let num_operations = ground.count();
        let mut num_deaths = 0;
        for operation in (1..=num_operations).step_by(self.stride) {
            ground.die_and_continue(operation);
            num_deaths += 1;
        }
        println!("{self:?}: died at {num_deaths} of {num_operations} operations");
        num_deaths
    }
}

impl Ground {
    fn new(walk: Walk) -> Self {
        let (place, s3) = (Place::new(), walk.is_on_s3.then(S3::start));
        let mut ground = Self { walk, place, s3, undisturbed: Tensors::new() };
        let finished = run(&mut ground.train("undisturbed", &[]), PATIENCE);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        ground.undisturbed = tensors(&ground.store("undisturbed"), STEPS);
        ground
    }

    /// A run named `name` with its own checkpoints.
    fn train(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.place.train(self.walk.ranks, name, arguments);
        for field in [&format!("training.steps={STEPS}"), "training.save_interval=1", "checkpoint.keep_last=1"] {
            command.args(["--set", field]);
        }
        if let Some(s3) = &self.s3 {
            command.args(["--set", &format!("checkpoint.url=s3://bucket/{name}")]).envs(environment(s3.port));
        }
        command
    }

    fn store(&self, name: &str) -> Catalog {
        match &self.s3 {
            Some(s3) => on_s3(s3.port, name),
            None => in_folder(&self.place.path(name).join("checkpoints")),
        }
    }

    /// A run that dies at an operation of the interrupted save.
    fn dying(&self, name: &str, operation: usize) -> Command {
        let mut command = self.train(name, &[]);
        for field in [
            "faults.enabled=true".to_owned(),
            format!("faults.die_at_store_operation={operation}"),
            format!("faults.die_from_step={INTERRUPTED_STEP}"),
            format!("faults.die_rank={}", self.walk.die_rank),
        ] {
            command.args(["--set", &field]);
        }
        command
    }

    /// Counts the operations of a save, from the log of a run that does not reach the operation at which it would die.
    fn count(&self) -> usize {
        let finished = run(&mut self.dying("counted", usize::MAX >> 1), PATIENCE);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let operations: Vec<&str> =
            finished.stderr.lines().filter(|line| line.contains("faults: operation ")).collect();
        let next_save = format!("step-{:09}", INTERRUPTED_STEP + 1);
        let end = operations.iter().position(|line| line.contains(&next_save)).unwrap();
        // All phases of a save occur: writing, publishing, reading back, deleting.
        let all_ranks = ["begin upload", "send a part of", "complete", "get"].map(|o| (o, ".safetensors"));
        let root =
            [("put", "manifest.json"), ("put", "latest.json"), ("delete", "manifest.json"), ("delete", ".safetensors")];
        for (operation, file) in all_ranks.into_iter().chain(root.into_iter().filter(|_| self.walk.die_rank == 0)) {
            let is_there = |line: &&str| line.contains(&format!(": {operation} ")) && line.contains(file);
            assert!(operations[..end].iter().any(is_there), "no {operation} of {file} among {operations:#?}");
        }
        end
    }

    fn die_and_continue(&self, operation: usize) {
        let name = format!("dies-{operation}");
        let died = run(&mut self.dying(&name, operation), PATIENCE);
        assert!(!died.timed_out, "operation {operation} leaves the group hanging: {}", died.stderr);
        assert!(died.code != Some(0), "operation {operation} did not come: {}", died.stderr);
        assert!(died.stderr.contains(&format!("dying before operation {operation}")), "{}", died.stderr);

        let store = self.store(&name);
        let newest = verified_steps(&store).last().copied().unwrap_or(0);
        assert!(newest >= INTERRUPTED_STEP - 1, "operation {operation} has lost the checkpoint before");
        let resumed = run(&mut self.train(&name, &["--resume", "auto"]), PATIENCE);
        assert_eq!((resumed.code, errors(&resumed).len()), (Some(0), 0), "operation {operation}: {}", resumed.stderr);
        let begin = format!("training steps {newest} to {STEPS}");
        assert!(newest == STEPS || resumed.stderr.contains(&begin), "operation {operation}: {}", resumed.stderr);
        assert!(!resumed.stderr.contains("DAMAGED"), "operation {operation}: {}", resumed.stderr);
        verified_steps(&store);
        assert_same(&self.undisturbed, &tensors(&store, STEPS));
        let left = self.left_behind(&name);
        assert!(left.is_empty(), "operation {operation} leaves {left:?}");
    }

    /// Files and uploads of a run that belong to no checkpoint.
    fn left_behind(&self, name: &str) -> Vec<String> {
        let (paths, uploads) = match &self.s3 {
            Some(s3) => (
                elements(&s3.request(&format!("GET /bucket?list-type=2&prefix={name}/")), "Key"),
                elements(&s3.request(&format!("GET /bucket?uploads&prefix={name}/")), "UploadId"),
            ),
            None => (paths(&self.place.path(name).join("checkpoints")), Vec::new()),
        };
        let place = format!("{name}/");
        let paths: Vec<&str> = paths.iter().map(|path| path.strip_prefix(&place).unwrap_or(path)).collect();
        let is_known = |path: &&str| {
            let step = path.split('/').next().unwrap_or_default();
            let is_of_checkpoint = paths.contains(&format!("{step}/manifest.json").as_str()) && !path.contains('#');
            is_of_checkpoint || ["owner.json", "latest.json"].contains(path)
        };
        let unknown = paths.iter().copied().filter(|path| !is_known(path)).map(str::to_owned);
        unknown.chain(uploads).collect()
    }
}

/// The texts of all XML elements named `name`.
fn elements(document: &str, name: &str) -> Vec<String> {
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    let after = document.split(&begin).skip(1);
    after.filter_map(|rest| Some(rest.split_once(&end)?.0.to_owned())).collect()
}

/// The paths of all files under a folder, relative to it.
fn paths(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(paths(&entry.path()).into_iter().map(|path| format!("{name}/{path}")));
        } else {
            found.push(name);
        }
    }
    found
}
