//! What `status` shows besides the launcher's file: goodput, and the space that the run takes. A thread gathers it, because
//! disks and stores may not answer.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::usage::{Usage, of_folder};

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

/// What is known so far.
#[derive(Debug)]
struct Answer {
    more: More,
    /// Whether all parts were measured since the question.
    is_complete: bool,
}

/// Gathers again and again.
#[derive(Debug)]
pub(super) struct Gatherer {
    asked: Sender<()>,
    answers: Receiver<Answer>,
    newest: Option<More>,
    asked_at: Option<Instant>,
}

impl Gatherer {
    /// Starts the thread. `store` is the place of the checkpoints, which `program` lists. Counting the files of a folder
    /// takes at most `counting`.
    pub(super) fn start(run: &Path, store: Option<&str>, program: &Path, counting: Duration) -> std::io::Result<Self> {
        let ((asked, questions), (answer, answers)) = (channel::<()>(), channel());
        let run = run.to_owned();
        let store = store.map(str::to_owned);
        let program: PathBuf = program.to_owned();
        let gather = move || {
            let elsewhere = store.filter(|store| !is_below(Path::new(store), &run));
            let mut more = More::default();
            let send = |more: &More, is_complete| answer.send(Answer { more: more.clone(), is_complete });
            // The parts that may take the longest come last. Until a part is measured again, its old value is shown.
            while questions.recv().is_ok() {
                more.goodput = crate::goodput::share_of_steps(&run);
                if send(&more, false).is_err() {
                    return;
                }
                more.folder = of_folder(&run, counting).ok();
                if send(&more, false).is_err() {
                    return;
                }
                more.checkpoint_bytes =
                    elsewhere.as_deref().and_then(|store| bytes_of_store(store, &program, counting));
                if send(&more, true).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("status".into()).spawn(gather)?;
        Ok(Self { asked, answers, newest: None, asked_at: None })
    }

    /// Returns what is known. The first call waits for all parts, at most `patience`.
    pub(super) fn newest(&mut self, patience: Duration) -> Option<&More> {
        let is_first = self.asked_at.is_none();
        if self.asked_at.is_none_or(|at| at.elapsed() >= PAUSE) {
            self.asked_at = Some(Instant::now());
            // A thread that hangs answers no question.
            let _ = self.asked.send(());
        }
        let end = Instant::now() + if is_first { patience } else { Duration::ZERO };
        // Without patience, this takes the answers that are there.
        while let Ok(answer) = self.answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.newest = Some(answer.more);
            if is_first && answer.is_complete {
                break;
            }
        }
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

/// Returns the bytes of all checkpoints in a place, as `admiral checkpoint list` counts them. `None` if they cannot all be
/// counted in time.
fn bytes_of_store(store: &str, program: &Path, counting: Duration) -> Option<u64> {
    if !store.contains("://") {
        return of_folder(Path::new(store), counting).ok().filter(|usage| usage.is_complete).map(|usage| usage.bytes);
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

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_run_is_measured_and_a_place_below_it_is_counted_once() {
        let run = tempfile::tempdir().unwrap();
        let (inside, outside) = (run.path().join("checkpoints"), tempfile::tempdir().unwrap());
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(outside.path().join("x"), vec![1; 100_000]).unwrap();
        let newest = |store: &Path| {
            let mut gatherer = Gatherer::start(run.path(), store.to_str(), Path::new("/nowhere"), LONG).unwrap();
            gatherer.newest(LONG).cloned().unwrap()
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

    #[test]
    fn a_late_part_hides_no_other() {
        let start = || {
            let ((asked, questions), (answer, answers)) = (channel(), channel());
            (Gatherer { asked, answers, newest: None, asked_at: None }, questions, answer)
        };
        let early = More { goodput: Some(0.5), ..More::default() };
        let complete = More { checkpoint_bytes: Some(7), ..early.clone() };
        let (mut gatherer, _questions, answer) = start();
        answer.send(Answer { more: early.clone(), is_complete: false }).unwrap();
        assert_eq!(gatherer.newest(Duration::from_millis(10)), Some(&early));
        answer.send(Answer { more: complete.clone(), is_complete: true }).unwrap();
        assert_eq!(gatherer.newest(Duration::ZERO), Some(&complete), "it is shown when it comes");
        let (mut gatherer, _questions, answer) = start();
        answer.send(Answer { more: early, is_complete: false }).unwrap();
        answer.send(Answer { more: complete.clone(), is_complete: true }).unwrap();
        assert_eq!(gatherer.newest(LONG), Some(&complete), "the first answer is not the last");
    }
}
