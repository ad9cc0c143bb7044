//! Tiny runs of the real program: data, configuration, commands, and the files of a run.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::mpirun::{Finished, on_ranks, run};

/// The timeout of a tiny run.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with data and a configuration.
pub struct Place {
    pub folder: tempfile::TempDir,
}

impl Place {
    /// Writes 64 grey images of 8x8 pixels in 3 classes, and a configuration.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (count, size) = (64u32, 8u32);
        let mut images = vec![0, 0, 8, 3];
        [count, size, size].iter().for_each(|n| images.extend(n.to_be_bytes()));
        images.extend((0..count * size * size).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8));
        let mut labels = vec![0, 0, 8, 1];
        labels.extend(count.to_be_bytes());
        labels.extend((0..count).map(|i| (i % 3) as u8));
        std::fs::write(folder.path().join("images"), images).unwrap();
        std::fs::write(folder.path().join("labels"), labels).unwrap();
        let place = Self { folder };
        std::fs::write(place.path("tiny.yaml"), place.yaml()).unwrap();
        place
    }

    fn yaml(&self) -> String {
        format!(
            "run: {{folder: {0}/run, device: cpu, num_threads: 1, seed: 5}}\n\
             data: {{source: idx, path: {0}/images, label_path: {0}/labels, num_workers: 1}}\n\
             model:\n  image_size: 8\n  image_channels: 1\n  num_classes: 3\n  num_channels: 32\n  num_res_blocks: 1\n  \
             channel_mult: [1, 1]\n  attention_resolutions: [4]\n  num_head_channels: 32\n  dropout: 0.1\n\
             diffusion: {{noise_schedule: cosine}}\n\
             training: {{global_batch: 8, microbatch: 8, steps: 20, log_interval: 1, save_interval: 10, sample_interval: 0}}\n\
             optimizer: {{learning_rate: 0.001, ema_rates: [0.9, 0.99], ema_warmup: true}}\n\
             precision: {{mode: fp32}}\n\
             checkpoint: {{when_busy: wait}}\n\
             sampling: {{timestep_respacing: ddim5, samples_per_class: 2}}\n",
            self.folder.path().display()
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `admiral train` on `ranks` ranks with the folder `run_folder` and more arguments.
    pub fn train(&self, ranks: usize, run_folder: &str, arguments: &[&str]) -> Command {
        self.train_through(&[], ranks, run_folder, arguments)
    }

    /// Like [`train`](Self::train), but the command `starter` starts each rank, unless it is empty. It gets the rank's
    /// command as arguments.
    pub fn train_through(&self, starter: &[&str], ranks: usize, run_folder: &str, arguments: &[&str]) -> Command {
        let words = [starter, &[env!("CARGO_BIN_EXE_admiral"), "train"]].concat();
        let mut command = on_ranks(ranks, words[0]);
        command.args(&words[1..]).arg(self.path("tiny.yaml"));
        command.arg("--set").arg(format!("run.folder={}", self.path(run_folder).display()));
        command.args(arguments);
        command
    }

    /// Compiles the library that holds up file operations, and returns its path.
    pub fn frozen_disk(&self) -> PathBuf {
        let library = self.path("frozen_disk.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/frozen_disk.c");
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).args([source, "-ldl"]);
        let finished = run(&mut command, PATIENCE);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        library
    }

    /// Trains to the end, with exit code 0.
    pub fn trained(&self, ranks: usize, run_folder: &str, arguments: &[&str]) -> Finished {
        let finished = run(&mut self.train(ranks, run_folder, arguments), PATIENCE);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished
    }

    /// The bytes of every tensor of a checkpoint by `role/name`. They do not depend on the number of files.
    pub fn tensors(&self, run_folder: &str, step: u64) -> BTreeMap<String, Vec<u8>> {
        let checkpoint = self.path(run_folder).join(format!("checkpoints/step-{step:09}"));
        assert!(checkpoint.join("manifest.json").is_file(), "{} is published", checkpoint.display());
        let mut tensors = BTreeMap::new();
        for role in std::fs::read_dir(&checkpoint).unwrap().map(|entry| entry.unwrap().path()).filter(|p| p.is_dir()) {
            for file in std::fs::read_dir(&role).unwrap().map(|entry| entry.unwrap().path()) {
                let bytes = std::fs::read(file).unwrap();
                for (name, view) in safetensors::SafeTensors::deserialize(&bytes).unwrap().iter() {
                    let role = role.file_name().unwrap().to_string_lossy();
                    tensors.insert(format!("{role}/{name}"), view.data().to_vec());
                }
            }
        }
        tensors
    }

    pub fn is_published(&self, run_folder: &str, step: u64) -> bool {
        self.path(run_folder).join(format!("checkpoints/step-{step:09}/manifest.json")).is_file()
    }

    /// A curve of a run, read from its event files by TensorBoard itself.
    pub fn curve(&self, run_folder: &str, tag: &str) -> Vec<f64> {
        let script = "import sys; \
                      from tensorboard.backend.event_processing.event_accumulator import EventAccumulator as E; \
                      e = E(sys.argv[1]); e.Reload(); print(*[s.value for s in e.Scalars(sys.argv[2])])";
        let python = format!("{}/.deps/venv/bin/python", env!("CARGO_MANIFEST_DIR"));
        let folder = self.path(run_folder).join("tensorboard");
        let out = Command::new(python).args(["-c", script]).arg(folder).arg(tag).output();
        let out = out.expect("`ci/setup test` has installed TensorBoard");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).split_whitespace().map(|value| value.parse().unwrap()).collect()
    }
}

/// Fails if two checkpoints differ.
pub fn assert_same(left: &BTreeMap<String, Vec<u8>>, right: &BTreeMap<String, Vec<u8>>) {
    assert!(!left.is_empty());
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    let different: Vec<&String> = left.keys().filter(|name| left[*name] != right[*name]).collect();
    assert!(different.is_empty(), "{} of {} tensors differ: {different:?}", different.len(), left.len());
}

/// The error messages of a run.
pub fn errors(finished: &Finished) -> Vec<&str> {
    finished.stderr.lines().filter(|line| line.starts_with("error:")).collect()
}

/// Waits until `done` returns true, and fails after a minute.
pub fn wait_until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..6000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("timed out waiting until {what}");
}
