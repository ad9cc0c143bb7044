//! What `status` shows besides the launcher's file: goodput, and the space that the run takes. A thread gathers it, because
//! disks and stores may not answer.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::usage::{Usage, of_folder};

/// Counting the files of a folder takes at most this long.
const COUNTING: Duration = Duration::from_secs(5);
/// While a run is watched, this much time lies between two measurements.
const PAUSE: Duration = Duration::from_secs(30);

/// What is known besides the launcher's file.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct More {
    /// The share of steps that count in the time of the run so far.
    pub(super) goodput: Option<f64>,
    /// The space of the run's folder.
    pub(super) folder: Option<Usage>,
    /// The bytes of the checkpoints, if they are in another place than the run's folder.
    pub(super) checkpoint_bytes: Option<u64>,
}

/// Gathers again and again.
#[derive(Debug)]
pub(super) struct Gatherer {
    asked: Sender<()>,
    answers: Receiver<More>,
    newest: Option<More>,
    asked_at: Option<Instant>,
}

impl Gatherer {
    /// Starts the thread. `store` is the place of the checkpoints, which `program` lists.
    pub(super) fn start(run: &Path, store: Option<&str>, program: &Path) -> std::io::Result<Self> {
        let ((asked, questions), (answer, answers)) = (channel::<()>(), channel());
        let run = run.to_owned();
        let store = store.map(str::to_owned);
        let program: PathBuf = program.to_owned();
        let gather = move || {
            let elsewhere = store.filter(|store| !is_below(Path::new(store), &run));
            while questions.recv().is_ok() {
                let more = More {
                    goodput: crate::goodput::share_of_steps(&run),
                    folder: of_folder(&run, COUNTING).ok(),
                    checkpoint_bytes: elsewhere.as_deref().and_then(|store| bytes_of_store(store, &program)),
                };
                if answer.send(more).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("status".into()).spawn(gather)?;
        Ok(Self { asked, answers, newest: None, asked_at: None })
    }

    /// Returns the newest answer. Waits for the first one at most `patience`.
    pub(super) fn newest(&mut self, patience: Duration) -> Option<&More> {
        if self.asked_at.is_none_or(|at| at.elapsed() >= PAUSE) {
            self.asked_at = Some(Instant::now());
            // A thread that hangs answers no question.
            let _ = self.asked.send(());
        }
        if self.newest.is_none() {
            self.newest = self.answers.recv_timeout(patience).ok();
        }
        self.newest = self.answers.try_iter().last().or(self.newest.take());
        self.newest.as_ref()
    }
}

/// Returns whether a place is in a folder, by whatever links or relative paths they are named.
fn is_below(place: &Path, folder: &Path) -> bool {
    match (std::fs::canonicalize(place), std::fs::canonicalize(folder)) {
        (Ok(place), Ok(folder)) => place.starts_with(folder),
        _ => false,
    }
}

/// Returns the bytes of all checkpoints in a place, as `admiral checkpoint list` counts them.
fn bytes_of_store(store: &str, program: &Path) -> Option<u64> {
    if !store.contains("://") {
        return of_folder(Path::new(store), COUNTING).ok().map(|usage| usage.bytes);
    }
    let mut command = Command::new(program);
    command.args(["checkpoint", "list", store, "--json"]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let sizes = value.get("checkpoints")?.as_array()?.iter().filter_map(|entry| entry.get("bytes")?.as_u64());
    Some(sizes.fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_run_is_measured_and_a_place_below_it_is_counted_once() {
        let run = tempfile::tempdir().unwrap();
        let (inside, outside) = (run.path().join("checkpoints"), tempfile::tempdir().unwrap());
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(outside.path().join("x"), vec![1; 100_000]).unwrap();
        let newest = |store: &Path| {
            let mut gatherer = Gatherer::start(run.path(), store.to_str(), Path::new("/nowhere")).unwrap();
            gatherer.newest(Duration::from_secs(60)).cloned().unwrap()
        };
        let more = newest(&inside);
        assert!(more.folder.is_some_and(|usage| usage.is_complete));
        assert_eq!((more.goodput, more.checkpoint_bytes), (None, None));
        let link = outside.path().join("link");
        std::os::unix::fs::symlink(&inside, &link).unwrap();
        assert_eq!(newest(&link).checkpoint_bytes, None);
        assert!(newest(outside.path()).checkpoint_bytes.is_some_and(|bytes| bytes >= 100_000));
        assert_eq!(newest(Path::new("s3://bucket/run")).checkpoint_bytes, None, "nobody can list it");
    }

    #[test]
    fn an_answer_that_does_not_come_is_not_waited_for() {
        let (asked, _questions) = channel();
        let (_answer, answers) = channel();
        let mut gatherer = Gatherer { asked, answers, newest: None, asked_at: None };
        assert_eq!(gatherer.newest(Duration::from_millis(10)), None);
    }
}
