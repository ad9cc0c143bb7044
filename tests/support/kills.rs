//! A run whose ranks are killed at random moments, and started again each time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use admiral_random::{Philox, Stream};

use crate::mpirun::{Running, session};
use crate::runs::{PATIENCE, Place, assert_same, wait_until};
use crate::stores::{in_folder, tensors, verified_steps};

/// The time within which a kill comes, from the moment that it waits for.
const WITHIN: Duration = Duration::from_millis(1500);

/// What came of the kills.
#[derive(Debug, Default)]
struct Toll {
    /// Steps that each kill undid.
    lost: Vec<u64>,
    /// Kills that left a step folder without manifest which was being written.
    in_saves: usize,
    /// Kills that left a step folder without manifest which was being deleted.
    in_deletions: usize,
    /// Checkpoints that were read and found whole, over all kills.
    whole: usize,
    /// The step folders without manifest after the last kill, with the time of the last change in each.
    torn: BTreeMap<u64, SystemTime>,
}

/// The seed of the moments: `ADMIRAL_CHAOS_SEED`, or another each time.
fn seed() -> u64 {
    let own = || std::process::id().into();
    std::env::var("ADMIRAL_CHAOS_SEED").map_or_else(|_| own(), |text| text.parse().unwrap())
}

/// Kills a random rank of a run, starts it again, and so on; then lets it end, with the bytes of an undisturbed run.
pub fn survive(ranks: usize, num_kills: u64) {
    let seed = seed();
    println!("ADMIRAL_CHAOS_SEED={seed}, {ranks} ranks");
    let mut random = Philox::new(seed, Stream::Initialization, ranks as u64);
    let place = Place::new();
    let mut toll = Toll::default();
    for kill in 0..num_kills {
        // Of three kills, one comes at any moment from the start of the program on; two come when the run has got on
        // by a checkpoint, so that it does get on.
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

/// A save is nearly always under way, and every save but the first few is followed by a deletion.
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
        assert_eq!(victims.len(), ranks, "the run has ended by itself");
        // SAFETY: a process of this test's own.
        unsafe { libc::kill(victims[(random.next_u64() % ranks as u64) as usize], libc::SIGKILL) };
        let killed = running.finish(PATIENCE);
        assert!(!killed.timed_out, "the group outlives its rank: {}", killed.stderr);
        assert!(killed.code != Some(0), "{}", killed.stderr);

        // Nothing that was published is lost or less than whole.
        let steps = if checkpoints.is_dir() { verified_steps(&in_folder(&checkpoints)) } else { Vec::new() };
        let now = steps.last().copied().unwrap_or(0);
        assert!(now >= before);
        let begin = format!("training steps {before} to");
        assert!(!is_patient || killed.stderr.contains(&begin), "{}", killed.stderr);
        let reached = killed.stderr.lines().filter(|line| line.contains("logged")).filter_map(step_of).max();
        self.lost.push(reached.unwrap_or(now).saturating_sub(now));
        self.whole += steps.len();
        let torn = torn(&checkpoints);
        // What an earlier kill left and nothing has touched since is not this one's.
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

/// The step folders without manifest, with the time of the last change in each.
fn torn(checkpoints: &Path) -> BTreeMap<u64, SystemTime> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let changed = |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    entries(checkpoints)
        .filter(|path| !path.join("manifest.json").exists())
        .filter_map(|path| Some((path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?, path.clone())))
        .map(|(step, path)| (step, entries(&path).chain([path.clone()]).map(|path| changed(&path)).max().unwrap()))
        .collect()
}

/// The step that a log line names.
fn step_of(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("step=")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
