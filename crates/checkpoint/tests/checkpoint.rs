//! Checkpoints in a folder and in buckets of S3, Google Cloud Storage and Azure: with different numbers of ranks, undamaged and damaged, and read by
//! Python.
#![allow(clippy::unwrap_used)]

#[path = "../../../tests/support/clouds.rs"]
mod clouds;
#[path = "../../../tests/support/s3.rs"]
mod s3;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use admiral_checkpoint::{
    Catalog, Checkpoint, CheckpointConfig, Content, Error, Expected, Parameter, Retention, Role, SaveEvent, Saver,
    SaverSettings, TensorTarget, TensorView, TrainingState, Writer, delete, find_checkpoint, save, write_probe,
};
use admiral_comm::{Collective, CollectiveError, ExitCode, Single};
use admiral_storage::{CloudSettings, Location, Store, StoreOptions};

use clouds::{Azurite, Gcs};
use s3::{S3, environment, python};

const ROLES: [Role; 4] = [Role::Master, Role::Ema { rate: 0.9999 }, Role::AdamMean, Role::AdamVariance];

/// Ranks that are threads of the test.
struct Threads {
    rank: usize,
    slots: Arc<Vec<Mutex<Vec<u8>>>>,
    barrier: Arc<Barrier>,
}

/// Runs `body` on `world` ranks.
fn ranks<T: Send>(world: usize, body: impl Fn(&dyn Collective) -> T + Sync) -> Vec<T> {
    let slots: Arc<Vec<Mutex<Vec<u8>>>> = Arc::new((0..world).map(|_| Mutex::default()).collect());
    let barrier = Arc::new(Barrier::new(world));
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..world)
            .map(|rank| {
                let threads = Threads { rank, slots: slots.clone(), barrier: barrier.clone() };
                let body = &body;
                scope.spawn(move || body(&threads))
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }
    fn world_size(&self) -> usize {
        self.slots.len()
    }
    fn local_rank(&self) -> usize {
        self.rank
    }
    fn all_reduce_sum_f32(&self, _: &mut [f32]) -> Result<(), CollectiveError> {
        panic!("checkpoints sum nothing")
    }
    fn background_all_reduce_sum_f32(&self, _: &mut [f32]) -> Result<(), CollectiveError> {
        panic!("checkpoints sum nothing")
    }
    fn all_reduce_sum_f64(&self, _: &mut [f64]) -> Result<(), CollectiveError> {
        panic!("checkpoints sum nothing")
    }
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        *bytes = self.all_gather(bytes)?.swap_remove(root);
        Ok(())
    }
    fn gather(&self, root: usize, bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>, CollectiveError> {
        let all = self.all_gather(bytes)?;
        Ok((self.rank == root).then_some(all))
    }
    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        *self.slots[self.rank].lock().unwrap() = bytes.to_vec();
        self.barrier.wait();
        let all = self.slots.iter().map(|slot| slot.lock().unwrap().clone()).collect();
        self.barrier.wait();
        Ok(all)
    }
    fn barrier(&self) -> Result<(), CollectiveError> {
        self.barrier.wait();
        Ok(())
    }
    fn background_barrier(&self) -> Result<(), CollectiveError> {
        self.barrier()
    }
    fn sendrecv(&self, _: usize, _: &mut [u8]) -> Result<(), CollectiveError> {
        panic!("checkpoints use no sendrecv")
    }
    fn abort(&self, code: ExitCode) -> ! {
        panic!("aborted with {code:?}")
    }
}

/// The ID of the attempt that writes.
const ATTEMPT: &str = "0123456789abcdef";

/// Returns the name of the file of the writer with this number.
fn file_of(number: usize, count: usize) -> String {
    format!("model-{number:05}-of-{count:05}-{ATTEMPT}.safetensors")
}

fn content(step: u64) -> Content {
    let parameter = |name: &str, shape: &[usize]| Parameter { name: name.into(), shape: shape.into() };
    Content {
        writer: Writer {
            run_id: "r".into(),
            attempt_id: ATTEMPT.into(),
            host: "node0".into(),
            started: "2021-05-11T00:00:00Z".into(),
        },
        task: "diffusion".into(),
        configuration: serde_json::json!({"model": {"num_channels": 32}, "rate": 0.1}),
        training: TrainingState {
            step,
            next_sample_index: 32 * step,
            optimizer_steps: step - 1,
            lg_loss_scale: Some(20.0 + 0.001 * step as f64),
            timestep_sampler: Some(serde_json::json!([0.1, 1.0 / 3.0])),
            images: None,
        },
        parameters: Arc::new(vec![
            parameter("time_embed.0.weight", &[64, 32]),
            parameter("time_embed.0.bias", &[64]),
            parameter("input_blocks.0.0.weight", &[32, 3, 3, 3]),
            parameter("scalar", &[]),
            parameter("out.2.bias", &[5]),
        ]),
    }
}

/// The values of a parameter in a role. All are different, and some are special, such as -0 and a denormal number.
fn values(content: &Content, role: Role, index: usize) -> Vec<f32> {
    let role = ROLES.iter().position(|r| *r == role).unwrap();
    let step = content.training.step as f32;
    let count = content.parameters[index].num_elements().unwrap();
    let value = |i: usize| match i {
        0 => f32::MIN_POSITIVE / 2.0,
        1 => -0.0,
        _ => (i as f32 + 0.1 * index as f32 + role as f32 * 1e3) / (step + 3.0),
    };
    (0..count).map(value).collect()
}

fn write(catalog: &Catalog, collective: &dyn Collective, content: &Content) -> Result<(), Error> {
    let mut tensors: Vec<(Role, usize, Vec<f32>)> = Vec::new();
    // In another order than the parameters', as from the trainer's segments.
    for role in ROLES {
        for index in (0..content.parameters.len()).rev() {
            tensors.push((role, index, values(content, role, index)));
        }
    }
    let views: Vec<TensorView> = tensors
        .iter()
        .map(|(role, index, values)| {
            let Parameter { name, shape } = &content.parameters[*index];
            TensorView { role: *role, name, shape, values }
        })
        .collect();
    save(catalog.store(), collective, content, &views).map(drop)
}

/// Reads everything and compares it bit by bit.
fn read(checkpoint: &Checkpoint, collective: &dyn Collective, content: &Content) -> Result<(), Error> {
    let mut buffers: Vec<(Role, usize, Vec<f32>)> = Vec::new();
    for role in ROLES {
        for index in 0..content.parameters.len() {
            let count = content.parameters[index].num_elements().unwrap();
            buffers.push((role, index, vec![f32::NAN; count]));
        }
    }
    let mut targets: Vec<TensorTarget> = buffers
        .iter_mut()
        .map(|(role, index, values)| {
            let Parameter { name, shape } = &content.parameters[*index];
            TensorTarget { role: *role, name, shape, values }
        })
        .collect();
    checkpoint.read(collective, &mut targets)?;
    for (role, index, found) in &buffers {
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(found), bits(&values(content, *role, *index)), "{role} {index}");
    }
    assert_eq!(checkpoint.manifest().training, content.training);
    assert_eq!(checkpoint.manifest().parameters(), *content.parameters);
    assert_eq!(checkpoint.manifest().configuration, content.configuration);
    Ok(())
}

fn expected(retention: &Retention) -> Expected<'_> {
    Expected { attempt_id: ATTEMPT, share_bytes: 1 << 20, checkpoint_bytes: 1 << 21, num_saves: 2, retention }
}

fn folder() -> (tempfile::TempDir, Catalog) {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::Folder(folder.path().join("checkpoints"));
    let store = Store::create(&location, &StoreOptions::default()).unwrap();
    (folder, Catalog::new(&store))
}

fn checkpoints_are_read_by_other_world_sizes(catalog: &Catalog) {
    let store = catalog.store();
    for (writers, readers, step) in [(1, 2, 10), (2, 1, 20), (3, 2, 30), (8, 3, 40)] {
        let content = content(step);
        for result in ranks(writers, |collective| write(catalog, collective, &content)) {
            result.unwrap();
        }
        assert_eq!(catalog.latest().unwrap(), Some(step));
        for result in ranks(readers, |collective| read(&catalog.checkpoint(step).unwrap(), collective, &content)) {
            result.unwrap();
        }
    }
    assert_eq!(catalog.steps().unwrap(), [10, 20, 30, 40]);
    let retention = Retention::default();
    for result in ranks(2, |collective| write_probe(store, expected(&retention), collective)) {
        result.unwrap();
    }
}

#[test]
fn a_folder_stores_checkpoints() {
    checkpoints_are_read_by_other_world_sizes(&folder().1);
}

#[test]
fn a_published_step_is_never_written_again() {
    let (root, catalog) = folder();
    write(&catalog, &Single, &content(20)).unwrap();
    let file = root.path().join("checkpoints/step-000000020/manifest.json");
    let before = std::fs::read(&file).unwrap();
    let errors: Vec<_> = ranks(2, |collective| write(&catalog, collective, &content(20)).unwrap_err());
    assert!(
        matches!(&errors[0], Error::AlreadyPublished { url, by } if url.ends_with("step-000000020") && by.contains("node0"))
    );
    assert_eq!(errors[0], errors[1]);
    assert_eq!(std::fs::read(&file).unwrap(), before);
    read(&catalog.checkpoint(20).unwrap(), &Single, &content(20)).unwrap();
}

#[test]
fn a_predecessor_that_wakes_up_overwrites_nothing_and_its_checkpoint_counts() {
    let (root, catalog) = folder();
    let successor =
        Content { writer: Writer { attempt_id: "fedcba9876543210".into(), ..content(20).writer }, ..content(20) };
    write(&catalog, &Single, &successor).unwrap();
    let step = root.path().join("checkpoints/step-000000020");
    let before = bytes_under(&step);
    // An upload of the predecessor ends only now.
    std::fs::write(step.join("master").join(file_of(1, 1)), "bytes of the predecessor").unwrap();
    assert!(before.iter().all(|(path, bytes)| std::fs::read(path).unwrap() == *bytes), "all files are its own");
    // A save of a step that another attempt of the run has published already.
    write(&catalog, &Single, &content(20)).unwrap();
    read(&catalog.checkpoint(20).unwrap(), &Single, &content(20)).unwrap();
    assert_eq!(catalog.checkpoint(20).unwrap().manifest().writer, successor.writer);
    let other_run = Content { writer: Writer { run_id: "other".into(), ..content(20).writer }, ..content(20) };
    assert!(matches!(write(&catalog, &Single, &other_run), Err(Error::AlreadyPublished { .. })));
}

fn bytes_under(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(bytes_under(&entry.path()));
        } else {
            found.push((entry.path(), std::fs::read(entry.path()).unwrap()));
        }
    }
    found
}

#[test]
fn deletion_touches_neither_linked_checkpoints_nor_files_of_users() {
    let (root, catalog) = folder();
    let other = root.path().join("other");
    let other_catalog =
        Catalog::new(&Store::create(&Location::Folder(other.clone()), &StoreOptions::default()).unwrap());
    write(&other_catalog, &Single, &content(5)).unwrap();
    let before = bytes_under(&other);
    for step in [10, 20] {
        write(&catalog, &Single, &content(step)).unwrap();
    }
    let own = root.path().join("checkpoints");
    std::os::unix::fs::symlink(other.join("step-000000005"), own.join("step-000000005")).unwrap();
    let notes = own.join("step-000000010/notes.txt");
    std::fs::write(&notes, "mine").unwrap();
    std::fs::write(own.join("step-000000010/master/notes.txt"), "mine").unwrap();
    assert_eq!(catalog.steps().unwrap(), [5, 10, 20], "a linked checkpoint can be read");
    let error = delete(catalog.store(), 5).unwrap_err().to_string();
    assert!(error.contains("step-000000005: it is a symbolic link"), "{error}");
    delete(catalog.store(), 10).unwrap();
    assert_eq!(catalog.steps().unwrap(), [5, 20]);
    assert_eq!(bytes_under(&other), before);
    assert!(notes.exists() && own.join("step-000000010/master/notes.txt").exists());
    assert_eq!(bytes_under(&own.join("step-000000010")).len(), 2);
}

#[test]
fn a_save_without_manifest_is_ignored_and_can_be_repeated() {
    let (root, catalog) = folder();
    write(&catalog, &Single, &content(10)).unwrap();
    for result in ranks(3, |collective| write(&catalog, collective, &content(20))) {
        result.unwrap();
    }
    // A run that ended before it wrote its manifest. latest.json still points there.
    let torn = root.path().join("checkpoints/step-000000020");
    std::fs::remove_file(torn.join("manifest.json")).unwrap();
    assert_eq!(catalog.steps().unwrap(), [10]);
    assert_eq!(catalog.latest().unwrap(), Some(10));
    let error = catalog.checkpoint(20).unwrap_err();
    assert!(error.to_string().contains("steps that can be read: 10"), "{error}");
    // Repeat it with one rank. No file of the three ranks remains.
    write(&catalog, &Single, &content(20)).unwrap();
    assert_eq!(std::fs::read_dir(torn.join("master")).unwrap().count(), 1);
    read(&catalog.checkpoint(20).unwrap(), &Single, &content(20)).unwrap();
    // A run that ended between its manifest and latest.json.
    std::fs::remove_file(root.path().join("checkpoints/latest.json")).unwrap();
    assert_eq!(catalog.latest().unwrap(), Some(20));
}

#[test]
fn a_failure_of_one_rank_fails_all_ranks_and_nothing_is_published() {
    let (root, catalog) = folder();
    // A folder has the name of the second rank's file.
    let taken = root.path().join(format!("checkpoints/step-000000020/master/{}/x", file_of(2, 2)));
    std::fs::create_dir_all(&taken).unwrap();
    let errors: Vec<_> = ranks(2, |collective| write(&catalog, collective, &content(20)).unwrap_err());
    assert_eq!(errors[0], errors[1]);
    assert_eq!(errors[0].exit_code(), ExitCode::Store);
    assert!(errors[0].to_string().contains(&file_of(2, 2)), "{}", errors[0]);
    assert_eq!(catalog.latest().unwrap(), None);
}

#[test]
fn damage_is_named_on_every_rank() {
    let (root, catalog) = folder();
    for result in ranks(2, |collective| write(&catalog, collective, &content(20))) {
        result.unwrap();
    }
    let name = format!("ema-0.9999/{}", file_of(2, 2));
    let file = root.path().join("checkpoints/step-000000020").join(&name);
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (bytes, difference) in [(Some(&flipped[..]), "SHA-256"), (Some(&whole[1..]), "bytes"), (None, "missing")] {
        match bytes {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let checkpoint = catalog.checkpoint(20).unwrap();
        for world in [1, 2] {
            for result in ranks(world, |collective| read(&checkpoint, collective, &content(20))) {
                let error = result.unwrap_err();
                assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
                assert!(error.to_string().contains(&name) && error.to_string().contains(difference), "{error}");
            }
        }
    }
    // The other roles are undamaged.
    assert_eq!(catalog.checkpoint(20).unwrap().load_role(Role::Master).unwrap().len(), 5);
}

#[test]
fn a_newer_manifest_is_refused() {
    let (root, catalog) = folder();
    write(&catalog, &Single, &content(20)).unwrap();
    let path = root.path().join("checkpoints/step-000000020/manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"schema_version\": 2", "\"schema_version\": 3", 1)).unwrap();
    let error = catalog.checkpoint(20).unwrap_err();
    assert!(matches!(&error, Error::Schema { reason, .. } if reason.contains("version 3")), "{error}");
}

#[test]
fn a_manifest_in_the_folder_of_another_step_is_damage() {
    let (root, catalog) = folder();
    write(&catalog, &Single, &content(20)).unwrap();
    let place = root.path().join("checkpoints");
    std::fs::create_dir(place.join("step-000000030")).unwrap();
    std::fs::copy(place.join("step-000000020/manifest.json"), place.join("step-000000030/manifest.json")).unwrap();
    let error = catalog.checkpoint(30).unwrap_err();
    assert!(matches!(&error, Error::Damaged { difference, .. } if difference.contains("step 20")), "{error}");
    let newest = catalog.newest_on_all_ranks(&Single).unwrap();
    assert_eq!(newest.checkpoint.unwrap().manifest().training.step, 20);
    assert_eq!(newest.damaged[0].0, 30);
}

#[test]
fn sizes_of_a_manifest_are_checked_before_memory_is_allocated() {
    let (root, catalog) = folder();
    write(&catalog, &Single, &content(20)).unwrap();
    let path = root.path().join("checkpoints/step-000000020/manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let elements = 1_u64 << 45;
    for tensor in manifest["tensors"].as_array_mut().unwrap().iter_mut().filter(|t| t["name"] == "out.2.bias") {
        tensor["shape"] = serde_json::json!([elements]);
    }
    for parameter in manifest["parameters"].as_array_mut().unwrap().iter_mut().filter(|p| p["name"] == "out.2.bias") {
        parameter["shape"] = serde_json::json!([elements]);
    }
    for (bytes, difference) in [(elements * 8, "far more than"), (elements * 4 + (1 << 20), "the manifest says")] {
        for file in manifest["files"].as_array_mut().unwrap() {
            file["length"] = serde_json::json!(bytes);
        }
        std::fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
        let error = catalog.checkpoint(20).and_then(|found| found.load_role(Role::Master)).unwrap_err();
        assert!(matches!(&error, Error::Damaged { difference: found, .. } if found.contains(difference)), "{error}");
    }
    // A file of that length without blocks, as a hostile writer can make one.
    for file in manifest["files"].as_array().unwrap() {
        let file = path.with_file_name(file["path"].as_str().unwrap());
        if std::fs::File::options().write(true).open(&file).unwrap().set_len(elements * 4 + (1 << 20)).is_err() {
            // The file system has no files of that length.
            return;
        }
    }
    let error = catalog.checkpoint(20).and_then(|found| found.load_role(Role::Master)).unwrap_err();
    assert!(matches!(&error, Error::TooLarge { reason, .. } if reason.contains("memory")), "{error}");
}

#[test]
fn another_model_does_not_fit() {
    let (_root, catalog) = folder();
    write(&catalog, &Single, &content(20)).unwrap();
    let mut other = content(20);
    let parameters = Arc::make_mut(&mut other.parameters);
    parameters[1].shape = vec![8, 8];
    parameters[4].name = "out.3.bias".into();
    let error = read(&catalog.checkpoint(20).unwrap(), &Single, &other).unwrap_err();
    let Error::DoesNotFit { problems, .. } = &error else { panic!("{error:?}") };
    assert!(problems.iter().any(|p| p.contains("time_embed.0.bias") && p.contains("[8, 8]")), "{error}");
    assert!(error.to_string().contains("out.3.bias") && error.to_string().contains("and 4 more"), "{error}");
}

#[test]
fn a_checkpoint_is_found_by_its_folder_the_checkpoints_folder_and_the_run() {
    let find = |place: &str| find_checkpoint(place, &StoreOptions::default());
    let (root, catalog) = folder();
    write(&catalog, &Single, &content(10)).unwrap();
    write(&catalog, &Single, &content(20)).unwrap();
    let place = |path: &str| root.path().join(path).display().to_string();
    for (path, step) in [("checkpoints/step-000000010", 10), ("checkpoints", 20), (".", 20)] {
        let checkpoint = find(&place(path)).unwrap();
        assert_eq!(checkpoint.manifest().training.step, step);
        let ema = checkpoint.load_role(Role::Ema { rate: 0.9999 }).unwrap();
        assert_eq!(ema["out.2.bias"], (vec![5], values(&content(step), Role::Ema { rate: 0.9999 }, 4)));
    }
    let error = find(&place(".")).unwrap().load_role(Role::Ema { rate: 0.5 }).unwrap_err();
    assert!(error.to_string().contains("ema-0.5") && error.to_string().contains("ema-0.9999"), "{error}");
    for path in ["nowhere", "checkpoints/step-000000010/master"] {
        let error = find(&place(path)).unwrap_err();
        assert!(matches!(&error, Error::NotFound { url, .. } if url.contains(path)), "{error:?}");
    }
}

#[test]
fn an_unwritable_location_is_an_error_at_once() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("file"), "").unwrap();
    let location = Location::Folder(root.path().join("file/checkpoints"));
    let error = Error::from(Store::create(&location, &StoreOptions::default()).unwrap_err());
    assert_eq!(error.exit_code(), ExitCode::Config);
    assert!(error.to_string().contains("file/checkpoints"), "{error}");
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_damage_and_keeps_nobody_waiting() {
    let (root, catalog) = folder();
    for step in [10, 20, 30] {
        write(&catalog, &Single, &content(step)).unwrap();
    }
    let put_pipe = |path: &str| {
        let path = root.path().join("checkpoints").join(path);
        let _ = std::fs::remove_file(&path);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    };
    put_pipe("step-000000030/manifest.json");
    put_pipe(&format!("step-000000020/master/{}", file_of(1, 1)));
    assert_eq!(catalog.steps().unwrap(), [10, 20, 30]);
    let newest = catalog.newest_on_all_ranks(&Single).unwrap();
    let is_pipe = |error: &Error| matches!(error, Error::Damaged { difference, .. } if difference.contains("a pipe"));
    assert!(newest.damaged.iter().all(|(step, error)| *step == 30 && is_pipe(error)), "{:?}", newest.damaged);
    let error = newest.checkpoint.unwrap().load_role(Role::Master).unwrap_err();
    assert!(is_pipe(&error), "{error:?}");
    catalog.checkpoint(10).unwrap().load_role(Role::Master).unwrap();
    catalog.set_aside(30, &Single).unwrap();
    assert_eq!(catalog.steps().unwrap(), [10, 20]);
    for pointer in ["latest.json", "owner.json"] {
        put_pipe(pointer);
        let error = catalog.inventory().unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Config, "{error}");
        assert!(error.to_string().contains(&format!("{pointer}: it is a pipe")), "{error}");
        std::fs::remove_file(root.path().join("checkpoints").join(pointer)).unwrap();
    }
}

#[test]
fn python_reads_the_weights_by_name() {
    let (root, catalog) = folder();
    write(&catalog, &Single, &content(20)).unwrap();
    let script = "import sys, numpy; from safetensors.numpy import load_file\n\
                  t = load_file(sys.argv[1])\n\
                  for name in sorted(t): print(name, t[name].dtype, list(t[name].shape), \
                  t[name].astype('<f4').tobytes().hex())";
    let file = root.path().join("checkpoints/step-000000020/ema-0.9999").join(file_of(1, 1));
    let output = Command::new(python()).arg("-c").arg(script).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let content = content(20);
    let mut expected: Vec<String> = (0..content.parameters.len())
        .map(|i| {
            let bytes = values(&content, ROLES[1], i).into_iter().flat_map(f32::to_le_bytes);
            let hex: String = bytes.map(|byte| format!("{byte:02x}")).collect();
            let Parameter { name, shape } = &content.parameters[i];
            format!("{name} float32 {shape:?} {hex}")
        })
        .collect();
    expected.sort();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(), expected);
}

/// Writes and reads checkpoints at `url`, an empty location in a bucket.
fn stores_checkpoints_in_a_bucket(url: &str, options: &StoreOptions) {
    let create = |url: &str| Store::create(&Location::parse(url).unwrap(), options).unwrap();
    checkpoints_are_read_by_other_world_sizes(&Catalog::new(&create(url)));
    let found = |place: &str| find_checkpoint(place, options).unwrap().manifest().training.step;
    assert_eq!(found(&format!("{url}/step-000000020")), 20);
    assert_eq!(found(url), 40);
    let scheme = url.split(':').next().unwrap();
    let nothing = format!("{scheme}://no-such-bucket/x");
    let nowhere = create(&nothing);
    let retention = Retention::default();
    let error = write_probe(&nowhere, expected(&retention), &Single).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Config);
    assert!(error.to_string().contains(&nothing), "{error}");
}

#[test]
fn s3_stores_checkpoints() {
    let s3 = S3::start();
    let vars = environment(s3.port).map(|(name, value)| (name.to_owned(), value));
    let options = StoreOptions { clouds: CloudSettings::from_vars(vars), ..StoreOptions::default() };
    stores_checkpoints_in_a_bucket("s3://bucket/some/run", &options);
}

/// Saves two checkpoints in the background at `url`, an empty location. The second one replaces the first one.
fn a_saver_keeps_the_newest(url: &str, options: &StoreOptions) {
    let store = Store::create(&Location::parse(url).unwrap(), options).unwrap();
    let config = CheckpointConfig { keep_last: Some(1), ..CheckpointConfig::default() };
    let Content { writer, parameters, .. } = content(50);
    let settings =
        SaverSettings { writer, roles: ROLES.to_vec(), parameters, resumed_from: None, ended_attempts: Vec::new() };
    let mut saver = Saver::open(&store, &config, settings, &Single).unwrap();
    for step in [50, 60] {
        let fill = |targets: Vec<(Role, usize, &mut [f32])>| -> Result<(), Error> {
            for (role, index, buffer) in targets {
                buffer.copy_from_slice(&values(&content(step), role, index));
            }
            Ok(())
        };
        saver.begin(content(step), Instant::now(), fill).unwrap();
        while saver.is_busy() {
            let report = saver.report(Instant::now());
            let event = saver.advance(report, Instant::now(), &Single).unwrap();
            assert!(!matches!(event, Some(SaveEvent::Failed { .. } | SaveEvent::NotTidied { .. })), "{event:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    drop(saver);
    let catalog = Catalog::open(url, options).unwrap();
    assert_eq!(catalog.steps().unwrap(), [60]);
    read(&catalog.checkpoint(60).unwrap(), &Single, &content(60)).unwrap();
}

#[test]
fn google_cloud_storage_and_azure_store_checkpoints() {
    let (gcs, azurite) = (Gcs::start(), Azurite::start());
    for (url, vars) in [("gs://bucket/some/run", gcs.environment()), ("az://bucket/some/run", azurite.environment())] {
        let options = StoreOptions { clouds: CloudSettings::from_vars(vars), ..StoreOptions::default() };
        stores_checkpoints_in_a_bucket(url, &options);
        a_saver_keeps_the_newest(&format!("{url}-saved"), &options);
    }
}

#[test]
#[ignore = "needs an S3 server: ADMIRAL_TEST_S3_URL and AWS_*"]
fn another_s3_server_stores_checkpoints() {
    let options = StoreOptions { clouds: CloudSettings::from_vars(std::env::vars()), ..StoreOptions::default() };
    stores_checkpoints_in_a_bucket(&std::env::var("ADMIRAL_TEST_S3_URL").unwrap(), &options);
}
