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

/// The events that may wait for the disk. Further ones are lost.
const MAX_WAITING: usize = 4096;

/// The time between two looks at the thread that writes.
const POLL: Duration = Duration::from_millis(5);

/// Appends events to a file of its own, from a thread of its own: a disk that hangs or is full keeps nobody waiting.
#[derive(Debug)]
pub struct Journal {
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
        let (path, shared) = (run_folder.join(FOLDER).join(format!("{name}.jsonl")), Arc::clone(&problem));
        let write = move || {
            if let Err(error) = write_all(&path, &receiver) {
                let text = format!("{}: {error}; the ledger of the run's time has a gap", path.display());
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
            }
        };
        let thread = std::thread::Builder::new().name("goodput".into()).spawn(write)?;
        Ok(Self { events: Some(sender), thread: Some(thread), problem })
    }

    /// Appends an event that happens now. Never waits.
    pub fn now(&self, kind: EventKind) {
        self.append(Event { time: seconds_since_epoch(), kind });
    }

    /// Appends an event. Never waits.
    pub fn append(&self, event: Event) {
        if let Some(events) = &self.events {
            // If the disk hangs or the thread has failed, the event is lost.
            let _ = events.try_send(event);
        }
    }

    /// Returns why events cannot be written, if they cannot.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when all events are written, or after `patience`.
    pub fn finish(mut self, patience: Duration) {
        self.events = None;
        let Some(thread) = self.thread.take() else { return };
        let end = Instant::now() + patience;
        while !thread.is_finished() && Instant::now() < end {
            std::thread::sleep(POLL);
        }
    }
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
/// read. Without any file there are no events.
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
                Ok(event) if event.time.is_finite() => events.push(event),
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
            Event { time: 1.0, kind: EventKind::LaunchBegins },
            Event { time: 2.5, kind: EventKind::RankBegins { world: 8, gpus: 8 } },
            Event { time: 9.0, kind: EventKind::StepsEnd { step: 3, seconds: IntervalSeconds::default() } },
        ];
        let start = |name: &str| Journal::start(run.path(), name).unwrap();
        let (launcher, rank) = (start("launcher-1"), start("attempt-1"));
        for (journal, event) in [(&rank, &events[1]), (&launcher, &events[0]), (&rank, &events[2])] {
            journal.append(event.clone());
        }
        for journal in [launcher, rank] {
            journal.finish(Duration::from_secs(20));
        }
        let path = run.path().join("goodput/attempt-1.jsonl");
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"{\"time\": 10.0, \"event\": \"ra").unwrap();
        assert_eq!(read_events(run.path()).unwrap(), (events.to_vec(), 1));
        // Another writer of the same name changes nothing.
        let other = start("attempt-1");
        other.append(events[0].clone());
        while other.problem().is_none() {
            std::thread::sleep(POLL);
        }
        assert!(other.problem().unwrap().contains("attempt-1.jsonl"));
        assert_eq!(read_events(run.path()).unwrap(), (events.to_vec(), 1));
    }
}
