//! The files of events.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::event::{Event, EventKind};

/// The folder of the files in the run's folder.
const FOLDER: &str = "goodput";

/// The longest file that is read, in bytes. A year of events every ten seconds is shorter.
const MAX_BYTES: u64 = 1 << 30;

/// The times of events, from 2001 to 2096. Others come from a clock that was not set.
const PLAUSIBLE_TIMES: std::ops::Range<f64> = 1e9..4e9;

/// The events that may wait for the disk. Further ones are lost.
const MAX_WAITING: usize = 4096;

/// The time between two looks at the thread that writes.
const POLL: Duration = Duration::from_millis(5);

/// Appends events to a file of its own, from a thread of its own: a disk that hangs or is full keeps nobody waiting.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    events: Option<SyncSender<Event>>,
    thread: Option<JoinHandle<()>>,
    problem: Arc<Mutex<Option<String>>>,
}

impl Journal {
    /// Starts a journal for the writer `name` in a run's folder. The name must not occur twice. Its file is made with the
    /// first event.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(run_folder: &Path, name: &str) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        let problem = Arc::new(Mutex::new(None));
        let path = run_folder.join(FOLDER).join(format!("{name}.jsonl"));
        let (of_thread, shared) = (path.clone(), Arc::clone(&problem));
        let write = move || {
            if let Err(error) = write_all(&of_thread, &receiver) {
                lose(&shared, &of_thread, &error.to_string());
            }
        };
        let thread = std::thread::Builder::new().name("goodput".into()).spawn(write)?;
        Ok(Self { path, events: Some(sender), thread: Some(thread), problem })
    }

    /// Appends an event that happens now. Never waits.
    pub fn now(&self, kind: EventKind) {
        self.append(Event { time: seconds_since_epoch(), kind });
    }

    /// Appends an event. Never waits.
    pub fn append(&self, event: Event) {
        let Some(events) = &self.events else { return };
        if let Err(error) = events.try_send(event) {
            // If the thread has failed, it has told why.
            self.lose(&error.to_string());
        }
    }

    /// Returns why events cannot be written, if they cannot.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when all events are written, or after `patience`. Returns why events are lost, if some are.
    #[must_use]
    pub fn finish(mut self, patience: Duration) -> Option<String> {
        self.events = None;
        let end = Instant::now() + patience;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() >= end {
                self.lose("the disk does not answer");
                break;
            }
            std::thread::sleep(POLL);
        }
        self.problem()
    }

    /// Keeps the first reason why events are lost.
    fn lose(&self, reason: &str) {
        lose(&self.problem, &self.path, reason);
    }
}

fn lose(problem: &Mutex<Option<String>>, path: &Path, reason: &str) {
    let mut problem = problem.lock().unwrap_or_else(PoisonError::into_inner);
    problem.get_or_insert_with(|| format!("{}: {reason}; the ledger of the run's time has a gap", path.display()));
}

/// Returns the time of the clock in seconds since 1970-01-01 in UTC.
#[must_use]
pub fn seconds_since_epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Writes events as they come. Each is one write, so that after a kill only the last line may be incomplete.
fn write_all(path: &PathBuf, events: &Receiver<Event>) -> io::Result<()> {
    let mut file: Option<File> = None;
    for event in events {
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        let file = match &mut file {
            Some(file) => file,
            None => {
                std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
                file.insert(OpenOptions::new().append(true).create_new(true).open(path)?)
            }
        };
        file.write_all(&line)?;
    }
    Ok(())
}

/// Returns the events of all files in a run's folder, in the order of their times, and the number of lines that cannot be
/// read or have an implausible time. Without any file there are no events.
///
/// # Errors
/// If the folder or a file in it cannot be read.
pub fn read_events(run_folder: &Path) -> io::Result<(Vec<Event>, usize)> {
    let folder = run_folder.join(FOLDER);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(error) => return Err(error),
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "jsonl"));
    // The order of events at the same time does not depend on the file system.
    paths.sort();
    let (mut events, mut num_unreadable) = (Vec::new(), 0);
    for path in paths {
        // Opening a pipe would wait for a writer.
        if !std::fs::metadata(&path)?.is_file() {
            continue;
        }
        let mut bytes = Vec::new();
        File::open(&path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
        for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Event>(line) {
                Ok(event) if PLAUSIBLE_TIMES.contains(&event.time) => events.push(event),
                _ => num_unreadable += 1,
            }
        }
    }
    events.sort_by(|one, other| one.time.total_cmp(&other.time));
    Ok((events, num_unreadable))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::event::{EventKind, IntervalSeconds};

    #[test]
    fn events_of_several_writers_come_in_order_and_torn_lines_are_counted() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(read_events(run.path()).unwrap(), (Vec::new(), 0));
        let events = [
            Event { time: 1.7e9, kind: EventKind::LaunchBegins },
            Event { time: 1.7e9 + 2.5, kind: EventKind::RankBegins { world: 8, gpus: 8 } },
            Event { time: 1.7e9 + 9.0, kind: EventKind::StepsEnd { step: 3, seconds: IntervalSeconds::default() } },
        ];
        let start = |name: &str| Journal::start(run.path(), name).unwrap();
        let (launcher, rank) = (start("launcher-1"), start("attempt-1"));
        for (journal, event) in [(&rank, &events[1]), (&launcher, &events[0]), (&rank, &events[2])] {
            journal.append(event.clone());
        }
        for journal in [launcher, rank] {
            assert_eq!(journal.finish(Duration::from_secs(20)), None);
        }
        let path = run.path().join("goodput/attempt-1.jsonl");
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        // A clock that was not set, and a kill.
        torn.write_all(b"{\"time\": 1e21, \"event\": \"launch_begins\"}\n{\"time\": 10.0, \"event\": \"ra").unwrap();
        assert_eq!(read_events(run.path()).unwrap(), (events.to_vec(), 2));
        // Another writer of the same name changes nothing.
        let other = start("attempt-1");
        other.append(events[0].clone());
        while other.problem().is_none() {
            std::thread::sleep(POLL);
        }
        assert!(other.finish(Duration::from_secs(20)).unwrap().contains("attempt-1.jsonl"));
        assert_eq!(read_events(run.path()).unwrap(), (events.to_vec(), 2));
    }
}
