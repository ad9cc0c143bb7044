//! Kills ranks of a run at random times, and restarts the run each time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use admiral_random::{Philox, Stream};

use crate::mpirun::{Running, session};
use crate::runs::{PATIENCE, Place, assert_same, wait_until};
use crate::stores::{in_folder, tensors, verified_steps};

/// A kill comes at a random time within this duration.
const WITHIN: Duration = Duration::from_millis(1500);

/// The effects of all kills.
#[derive(Debug, Default)]
struct Toll {
    /// The steps that each kill lost.
    lost: Vec<u64>,
    /// Kills during a save: they left a step folder without manifest.
    in_saves: usize,
    /// Kills during a deletion: they left an older step folder without manifest.
    in_deletions: usize,
    /// Checkpoints that were verified after all kills together.
    whole: usize,
    /// The step folders without manifest after the last kill, each with the time of its last change.
    torn: BTreeMap<u64, SystemTime>,
}

/// The seed of the random times: `ADMIRAL_CHAOS_SEED`, or the process id.
fn seed() -> u64 {
    let own = || std::process::id().into();
    std::env::var("ADMIRAL_CHAOS_SEED").map_or_else(|_| own(), |text| text.parse().unwrap())
}

/// Kills a random rank of a run and restarts it, `num_kills` times. Then the run ends, with the same bytes as an
/// undisturbed run.
pub fn survive(ranks: usize, num_kills: u64) {
    let seed = seed();
    println!("ADMIRAL_CHAOS_SEED={seed}, {ranks} ranks");
    let mut random = Philox::new(seed, Stream::Initialization, ranks as u64);
    let place = Place::new();
    let mut toll = Toll::default();
    for kill in 0..num_kills {
        // One of three kills comes at any time after the start. The others come after the next checkpoint, so that the
        // run makes progress.
        let is_patient = kill % 3 > 0;
        toll.add(&place, ranks, is_patient, &mut random);
    }
    let store = in_folder(&place.path("killed/checkpoints"));
    let last = store.latest().unwrap().unwrap() + 5;
    let steps = format!("training.steps={last}");
    place.trained(ranks, "killed", &[&ARGUMENTS[..], &["--resume", "auto", "--set", &steps]].concat());
    place.trained(ranks, "undisturbed", &["--set", &steps, "--set", "training.save_interval=1000000"]);
    verified_steps(&store);
    assert_same(&place.tensors("undisturbed", last), &tensors(&store, last));
    toll.print(ranks, last);
}

/// With these, a save is nearly always running, and almost every save is followed by a deletion.
const ARGUMENTS: [&str; 4] = ["--set", "training.save_interval=3", "--set", "checkpoint.keep_last=2"];

impl Toll {
    fn add(&mut self, place: &Place, ranks: usize, is_patient: bool, random: &mut Philox) {
        let checkpoints = place.path("killed/checkpoints");
        let newest = || checkpoints.is_dir().then(|| in_folder(&checkpoints).latest().unwrap()).flatten().unwrap_or(0);
        let before = newest();
        let endless = [&ARGUMENTS[..], &["--set", "training.steps=1000000", "--resume", "auto"]].concat();
        let mut command = place.train(ranks, "killed", &endless);
        let running = Running::start(command.env("RUST_LOG", "warn,admiral=debug"));
        let program = env!("CARGO_BIN_EXE_admiral");
        let is_rank =
            |id: &i32| std::fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe.as_os_str() == program);
        let at_work = || session(running.id()).into_iter().filter(is_rank).collect::<Vec<_>>();
        wait_until("all ranks are there", || at_work().len() == ranks);
        if is_patient {
            wait_until("a checkpoint is published", || newest() > before);
        }
        std::thread::sleep(WITHIN.mul_f64((random.next_u64() >> 11) as f64 / (1u64 << 53) as f64));
        let victims = at_work();
        assert_eq!(victims.len(), ranks, "the run has ended before the kill");
        // SAFETY: the process belongs to this test.
        unsafe { libc::kill(victims[(random.next_u64() % ranks as u64) as usize], libc::SIGKILL) };
        let killed = running.finish(PATIENCE);
        assert!(!killed.timed_out, "the group outlives its rank: {}", killed.stderr);
        assert!(killed.code != Some(0), "{}", killed.stderr);

        // No published checkpoint is lost or damaged.
        let steps = if checkpoints.is_dir() { verified_steps(&in_folder(&checkpoints)) } else { Vec::new() };
        let now = steps.last().copied().unwrap_or(0);
        assert!(now >= before);
        let begin = format!("training steps {before} to");
        assert!(!is_patient || killed.stderr.contains(&begin), "{}", killed.stderr);
        let reached = killed.stderr.lines().filter(|line| line.contains("logged")).filter_map(step_of).max();
        self.lost.push(reached.unwrap_or(now).saturating_sub(now));
        self.whole += steps.len();
        let torn = torn(&checkpoints);
        // Folders that have not changed since an earlier kill do not count for this one.
        let is_new = |step: &u64| self.torn.get(step) != torn.get(step);
        self.in_saves += usize::from(torn.keys().any(|step| *step > now && is_new(step)));
        self.in_deletions += usize::from(torn.keys().any(|step| *step < now && is_new(step)));
        self.torn = torn;
    }

    fn print(&mut self, ranks: usize, last: u64) {
        self.lost.sort_unstable();
        let (median, worst) = (self.lost[self.lost.len() / 2], self.lost[self.lost.len() - 1]);
        println!("| ranks | kills | in a save | in a deletion | steps | lost: median | worst | found whole |");
        println!(
            "| {ranks} | {} | {} | {} | {last} | {median} | {worst} | {} |",
            self.lost.len(),
            self.in_saves,
            self.in_deletions,
            self.whole
        );
    }
}

/// The step folders without manifest, each with the time of its last change.
fn torn(checkpoints: &Path) -> BTreeMap<u64, SystemTime> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let changed = |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    entries(checkpoints)
        .filter(|path| !path.join("manifest.json").exists())
        .filter_map(|path| Some((path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?, path.clone())))
        .map(|(step, path)| (step, entries(&path).chain([path.clone()]).map(|path| changed(&path)).max().unwrap()))
        .collect()
}

/// The step in a log line.
fn step_of(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("step=")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
