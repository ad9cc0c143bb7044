//! Runs on shards in a store, with faults of the network, that are killed again and again.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use admiral_checkpoint::Catalog;
use admiral_random::{Philox, Stream};
use admiral_storage::Store;

use crate::fault_proxy::{Action, FaultProxy, Rule, When};
use crate::mpirun::{Running, run, session};
use crate::runs::{PATIENCE, Place, assert_same, errors, wait_until};
use crate::s3::{S3, environment};
use crate::stores::in_folder;

const NUM_SHARDS: usize = 3;
const IMAGES_PER_SHARD: usize = 16;

/// Writes shards with pictures of 8 x 8 pixels and their classes.
fn write_shards(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    for shard in 0..NUM_SHARDS {
        let mut builder =
            tar::Builder::new(std::fs::File::create(folder.join(format!("train-{shard:03}.tar"))).unwrap());
        let mut add = |name: String, bytes: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, bytes).unwrap();
        };
        for image in shard * IMAGES_PER_SHARD..(shard + 1) * IMAGES_PER_SHARD {
            let mut png = Vec::new();
            let pixels: Vec<u8> = (0..64).map(|pixel| (image * 37 + pixel * 5) as u8).collect();
            let encoder = image::codecs::png::PngEncoder::new(&mut png);
            image::ImageEncoder::write_image(encoder, &pixels, 8, 8, image::ExtendedColorType::L8).unwrap();
            add(format!("{image:06}.png"), &png);
            add(format!("{image:06}.cls"), format!("{}", image % 3).as_bytes());
        }
        builder.finish().unwrap();
    }
}

/// The same shards in a folder and on a server behind a proxy.
struct Stage {
    place: Place,
    store: Store,
    proxy: FaultProxy,
    _s3: S3,
}

impl Stage {
    fn new() -> Self {
        let (place, s3) = (Place::new(), S3::start());
        let shards = place.path("shards");
        write_shards(&shards);
        let backend = crate::s3::builder(s3.port).build().unwrap();
        let store = Store::from_backend(Arc::new(backend), "shards".into(), "s3://bucket/shards").unwrap();
        for shard in std::fs::read_dir(&shards).unwrap().map(|entry| entry.unwrap()) {
            let bytes = std::fs::read(shard.path()).unwrap();
            store.wait(store.put(shard.file_name().to_str().unwrap(), bytes)).unwrap();
        }
        let proxy = FaultProxy::start(s3.port);
        Self { place, store, proxy, _s3: s3 }
    }

    /// A run on the shards at `path`.
    fn train(&self, ranks: usize, name: &str, path: &str, arguments: &[&str]) -> Command {
        let path = format!("data.path={path}");
        let fields = ["data.source=tar", "data.classes=container", "data.label_path=null", "data.num_workers=2", &path];
        let fields: Vec<&str> = fields.into_iter().flat_map(|field| ["--set", field]).collect();
        let mut command = self.place.train(ranks, name, &[&fields[..], arguments].concat());
        command.envs(environment(self.proxy.port));
        command
    }

    fn checkpoints(&self, name: &str) -> Option<Catalog> {
        let folder = self.place.path(name).join("checkpoints");
        folder.is_dir().then(|| in_folder(&folder))
    }

    /// Trains `steps` steps on 2 ranks from the folder, and from the store with `num_kills` kills. Compares all bytes.
    fn kills_change_nothing(&self, steps: u64, num_kills: u64) {
        let all = format!("training.steps={steps}");
        let saves = ["--set", "training.save_interval=5", "--set", &all, "--resume", "auto"];
        let local = self.place.path("shards").display().to_string();
        let finished = run(&mut self.train(2, "local", &local, &saves), PATIENCE);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);

        let url = "s3://bucket/shards/train-{000..002}.tar";
        let mut random = Philox::new(7, Stream::Initialization, num_kills);
        for kill in 0..num_kills {
            let running = Running::start(&mut self.train(2, "remote", url, &saves));
            // The kills are spread over the run.
            let wanted = steps * kill / (num_kills + 1) / 5 * 5;
            let newest = || self.checkpoints("remote").and_then(|store| store.latest().unwrap()).unwrap_or(0);
            wait_until("the run has come to the next kill", || newest() >= wanted);
            let program = env!("CARGO_BIN_EXE_admiral");
            let is_rank =
                |id: &i32| std::fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe.as_os_str() == program);
            let ranks = || session(running.id()).into_iter().filter(is_rank).collect::<Vec<_>>();
            wait_until("both ranks are there", || ranks().len() == 2);
            std::thread::sleep(Duration::from_millis(random.next_u64() % 300));
            for rank in ranks().into_iter().skip((random.next_u64() % 2) as usize).take(1) {
                // SAFETY: the process belongs to this test.
                unsafe { libc::kill(rank, libc::SIGKILL) };
            }
            assert!(!running.finish(PATIENCE).timed_out);
        }
        let finished = run(&mut self.train(2, "remote", url, &saves), PATIENCE);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert_same(&self.place.tensors("local", steps), &self.place.tensors("remote", steps));
    }
}

#[test]
fn a_run_on_shards_in_a_store_that_is_killed_ends_like_one_on_a_folder() {
    let stage = Stage::new();
    // Every seventh answer is torn, late or an error.
    stage.proxy.set_rules(vec![
        Rule::new(Action::CutAnswer).method("GET").path("train-").when(When::Every(14)),
        Rule::new(Action::INTERNAL_ERROR).method("GET").path("train-").when(When::Every(21)),
        Rule::new(Action::FlipAnswer).method("GET").path("train-").when(When::Every(35)),
    ]);
    stage.kills_change_nothing(40, 2);
    assert!(stage.proxy.faults() > 0);
}

#[test]
fn a_store_that_refuses_or_stays_silent_ends_the_run_with_one_message() {
    let stage = Stage::new();
    let url = "s3://bucket/shards/train-{000..002}.tar";
    let fields = ["training.steps=4", "checkpoint.request_timeout_seconds=2", "checkpoint.deadline_seconds=8"];
    let arguments: Vec<&str> = fields.into_iter().flat_map(|field| ["--set", field]).collect();
    let begun = |stage: &Stage, name| run(&mut stage.train(2, name, url, &arguments), PATIENCE);
    // The index is made, and the run succeeds.
    assert_eq!(begun(&stage, "good").code, Some(0));
    for (name, action) in [("denied", Action::Refuse { status: 403, code: "AccessDenied" }), ("silent", Action::Stall)]
    {
        stage.proxy.set_rules(vec![Rule::new(action).method("GET").path("train-")]);
        let finished = begun(&stage, name);
        assert!(!finished.timed_out, "{name} hangs: {}", finished.stderr);
        assert_eq!(finished.code, Some(69), "{name}: {}", finished.stderr);
        assert!(errors(&finished).iter().any(|error| error.contains("train-00")), "{name}: {}", finished.stderr);
    }
    // A shard that is gone is named before anything is written.
    stage.proxy.set_rules(Vec::new());
    stage.store.wait(stage.store.delete("train-001.tar")).unwrap();
    let finished = begun(&stage, "gone");
    assert_eq!(finished.code, Some(64), "{}", finished.stderr);
    assert!(errors(&finished)[0].contains("train-001.tar"), "{}", finished.stderr);
    assert!(!stage.place.path("gone").exists());
}

mod long {
    use super::*;

    #[test]
    #[ignore = "takes a minute"]
    fn ten_kills_in_300_steps_change_nothing() {
        Stage::new().kills_change_nothing(300, 10);
    }
}
