//! Sampling jobs whose store fails or whose disk is full: the parts that failed are drawn again, or the job ends with exit
//! code 69, one message and no damaged file, and the same command continues it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use admiral_storage::Store;

use crate::fault_proxy::{Action, FaultProxy, Rule, When};
use crate::mpirun::{Finished, Running, on_ranks, run};
use crate::runs::{PATIENCE, Place, errors, wait_until};
use crate::s3::{S3, environment};
use crate::s3_faults::{DENIED, storm};

/// The file with all images of a job, and how many there are: three parts, the last one with 7 images.
const NPZ: &str = "samples_23x8x8x1.npz";

/// A trained model, a server behind the proxy, and the images that undisturbed jobs draw.
struct Stage {
    place: Place,
    s3: S3,
    proxy: FaultProxy,
    undisturbed: Vec<u8>,
}

impl Stage {
    fn new() -> Self {
        let (place, s3) = (Place::new(), S3::start());
        let proxy = FaultProxy::start(s3.port);
        place.trained(1, "base", &["--set", "training.steps=2", "--set", "training.save_interval=2"]);
        let local = place.path("local");
        let stage = Self { place, s3, proxy, undisturbed: Vec::new() };
        let drawn = run(&mut stage.job(1, local.to_str().unwrap()), PATIENCE);
        assert_eq!(drawn.code, Some(0), "{}", drawn.stderr);
        Self { undisturbed: std::fs::read(local.join(NPZ)).unwrap(), ..stage }
    }

    /// The job on `ranks` ranks, through the proxy if `out` is a URL.
    fn job(&self, ranks: usize, out: &str) -> Command {
        let mut command = on_ranks(ranks, env!("CARGO_BIN_EXE_admiral"));
        command.arg("sample").arg(self.place.path("base")).args(["--out", out, "--num", "23", "--threads", "1"]);
        command.args(["--batch-size", "4", "--part-images", "8"]).envs(environment(self.proxy.port));
        command
    }

    fn ends(&self, ranks: usize, name: &str) -> Finished {
        let finished = run(&mut self.job(ranks, &format!("s3://bucket/{name}")), PATIENCE);
        assert!(!finished.timed_out, "{name} hangs: {}", finished.stderr);
        finished
    }

    /// A file of a job, read without the proxy.
    fn file(&self, name: &str, path: &str) -> Option<Vec<u8>> {
        let backend = Arc::new(crate::s3::builder(self.s3.port).build().unwrap());
        let store = Store::from_backend(backend, name.into(), &format!("s3://bucket/{name}")).unwrap();
        store.wait(store.get(path)).unwrap().map(|bytes| bytes.to_vec())
    }
}

#[test]
fn a_job_survives_a_storm() {
    let stage = Stage::new();
    for turn in 0..3 {
        let (name, before) = (format!("storm-{turn}"), stage.proxy.faults());
        stage.proxy.set_rules(storm(turn));
        let finished = stage.ends(2, &name);
        stage.proxy.set_rules(vec![]);
        assert!(stage.proxy.faults() > before, "{name}: no rule has hit");
        assert_eq!((finished.code, errors(&finished).len()), (Some(0), 0), "{name}: {}", finished.stderr);
        assert!(stage.file(&name, NPZ) == Some(stage.undisturbed.clone()), "{name}: {}", finished.stderr);
    }
}

#[test]
fn a_job_that_a_store_refuses_is_continued_by_the_same_command() {
    let stage = Stage::new();
    let refuse = |path: &str| Rule::new(DENIED).path(path);
    let cases = [
        ("job", "job.json", "cannot "),
        ("part", "parts/part-000001", "cannot write"),
        ("images", NPZ, "cannot write"),
        ("manifest", "manifest.json", "cannot write"),
    ];
    for (name, path, cause) in cases {
        stage.proxy.set_rules(["PUT", "POST"].map(|method| refuse(path).method(method)).into());
        let refused = stage.ends(2, name);
        assert_eq!((refused.code, errors(&refused).len()), (Some(69), 1), "{name}: {}", refused.stderr);
        for part in [cause, path, "ExpiredToken", &format!("s3://bucket/{name}")] {
            assert!(errors(&refused)[0].contains(part), "{name}: no {part:?} in {}", errors(&refused)[0]);
        }
        assert_eq!(stage.file(name, "manifest.json"), None, "{name}: a job that is not complete has no manifest");
        stage.proxy.set_rules(vec![]);
        let finished = stage.ends(2, name);
        assert_eq!(finished.code, Some(0), "{name}: {}", finished.stderr);
        assert!(stage.file(name, NPZ) == Some(stage.undisturbed.clone()), "{name}");
    }
}

#[test]
fn a_job_that_waits_for_a_store_heeds_sigterm() {
    let stage = Stage::new();
    stage.proxy.set_rules(vec![Rule::new(Action::Stall).path("parts/")]);
    let running = Running::start(&mut stage.job(1, "s3://bucket/silent"));
    wait_until("the store keeps the job waiting", || stage.proxy.faults() > 0);
    running.signal(libc::SIGTERM);
    let stopped = running.finish(PATIENCE);
    assert!(!stopped.timed_out, "it goes on waiting: {}", stopped.stderr);
    assert_eq!(stopped.code, Some(75), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("leaving at once"), "{}", stopped.stderr);
    stage.proxy.set_rules(vec![]);
    assert_eq!(stage.ends(1, "silent").code, Some(0));
    assert!(stage.file("silent", NPZ) == Some(stage.undisturbed.clone()));
}

#[test]
fn a_part_that_the_store_cut_is_drawn_again() {
    let stage = Stage::new();
    // The parts are read back while the file of all images is written.
    let cut = Rule::new(Action::CutAnswer).method("GET").path("part-000001").when(When::Nth(1));
    stage.proxy.set_rules(vec![cut]);
    let finished = stage.ends(1, "cut");
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(stage.proxy.faults() > 0);
    assert!(stage.file("cut", NPZ) == Some(stage.undisturbed.clone()));
}

#[test]
fn a_job_on_a_full_disk_ends_and_continues_when_there_is_space() {
    let stage = Stage::new();
    let (disk, out) = (stage.place.path("disk"), stage.place.path("finished.npz"));
    std::fs::create_dir(&disk).unwrap();
    let job = disk.join("job");
    let command = stage.job(1, job.to_str().unwrap());
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    // The file system exists in a mount namespace of its own, for as long as the script runs.
    let script = "
        disk=$1 out=$2; shift 2
        mount -t tmpfs -o size=28k none \"$disk\" || exit 99
        \"$@\"; echo \"first: $?\" >&2
        ls -A \"$disk/job\" \"$disk/job/parts\" >&2
        mount -o remount,size=8m \"$disk\" || exit 99
        \"$@\"; code=$?
        cp \"$disk\"/job/samples_*.npz \"$out\"
        exit $code";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--map-root-user", "sh", "-c", script, "full-disk"]).arg(&disk).arg(&out).args(words);
    let finished = run(&mut unshare, PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("first: 69"), "{}", finished.stderr);
    assert_eq!(errors(&finished).len(), 1, "{}", finished.stderr);
    assert!(errors(&finished)[0].contains("No space left on device"), "{}", finished.stderr);
    assert!(std::fs::read(&out).unwrap() == stage.undisturbed);
    assert!(!Path::new(&job).exists(), "the disk belonged to the script");
}

#[test]
fn a_file_on_a_full_disk_ends_a_command_and_leaves_nothing() {
    let stage = Stage::new();
    let (disk, images) = (stage.place.path("disk"), stage.place.path("local"));
    std::fs::create_dir(&disk).unwrap();
    let images = images.to_str().unwrap();
    let cases: [(&str, &str, &[&str]); 4] = [
        ("sample", "x.png", &["--respacing", "2", "--per-class", "2"]),
        ("encode", "x.safetensors", &["--images", images, "--respacing", "4,1"]),
        ("interpolate", "x.png", &["--images", images, "--respacing", "4,1", "--pairs", "1"]),
        ("nll", "x.npz", &["--data", images, "--respacing", "2", "--num", "4"]),
    ];
    let script = "
        disk=$1; shift
        mount -t tmpfs -o size=64k none \"$disk\" || exit 99
        dd if=/dev/zero of=\"$disk/other\" 2> /dev/null
        \"$@\"; code=$?
        ls -A \"$disk\"
        exit $code";
    for (word, out, arguments) in cases {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--map-root-user", "sh", "-c", script, "full-disk"]).arg(&disk);
        unshare.arg(env!("CARGO_BIN_EXE_admiral")).arg(word).arg(stage.place.path("base")).arg("--out");
        unshare.arg(disk.join(out)).args(["--batch-size", "4", "--threads", "1"]).args(arguments);
        let full = run(&mut unshare, PATIENCE);
        assert_eq!((full.code, errors(&full).len()), (Some(69), 1), "{word}: {}", full.stderr);
        assert!(errors(&full)[0].contains("No space left on device"), "{word}: {}", full.stderr);
        assert_eq!(full.stdout, "other\n", "{word} left something");
    }
}
