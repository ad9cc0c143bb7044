//! The files of events.

use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use admiral_contract::files::{NotRegular, open_to_read};
use admiral_contract::{Existing, LineFile};

use crate::event::{Event, EventKind};

/// The folder of the files in the run's folder.
const FOLDER: &str = "goodput";

/// The longest file that is read, in bytes. A year of events every ten seconds is shorter.
const MAX_BYTES: u64 = 1 << 30;

/// The times of events, from 2001 to 2096. Others come from a clock that was not set.
const PLAUSIBLE_TIMES: std::ops::Range<f64> = 1e9..4e9;

/// What follows from lost events.
const LOSS: &str = "the ledger of the run's time has a gap";

/// Appends events to a file of its own, from a thread of its own: a disk that hangs or is full keeps nobody waiting.
#[derive(Debug)]
pub struct Journal {
    file: LineFile,
    clock: Clock,
}

/// A clock that runs evenly from the time at which it was started: the system's clock may be set while a run is on, and the
/// difference would be taken for time of the run.
#[derive(Debug)]
struct Clock {
    /// Seconds since 1970-01-01 in UTC.
    time: f64,
    started: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { time: seconds_since_epoch(), started: Instant::now() }
    }

    fn now(&self) -> f64 {
        self.time + self.started.elapsed().as_secs_f64()
    }
}

impl Journal {
    /// Starts a journal for the writer `name` in a run's folder. The name must not occur twice. Its file is made with the
    /// first event.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(run_folder: &Path, name: &str) -> io::Result<Self> {
        let path = run_folder.join(FOLDER).join(format!("{name}.jsonl"));
        Ok(Self { file: LineFile::start(path, Existing::Refuse, LOSS)?, clock: Clock::start() })
    }

    /// Appends an event that happens now. Never waits.
    pub fn now(&self, kind: EventKind) {
        self.append(Event { time: self.clock.now(), kind });
    }

    /// Appends an event that happened some seconds ago. Never waits.
    pub fn before(&self, seconds: f64, kind: EventKind) {
        self.append(Event { time: self.clock.now() - seconds, kind });
    }

    /// Appends an event. Never waits.
    pub fn append(&self, event: Event) {
        // Events are numbers and names, which JSON can express.
        self.file.append(serde_json::to_vec(&event).unwrap_or_default());
    }

    /// Returns why events cannot be written, if they cannot.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.file.problem()
    }

    /// Returns when all events are written, or after `patience`. Returns why events are lost, if some are.
    #[must_use]
    pub fn finish(self, patience: Duration) -> Option<String> {
        self.file.finish(patience)
    }
}

/// Returns the time of the clock in seconds since 1970-01-01 in UTC.
#[must_use]
pub fn seconds_since_epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
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
        let file = match open_to_read(&path) {
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<NotRegular>()) => continue,
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
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
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;
    use crate::event::{EventKind, IntervalSeconds};

    #[test]
    fn a_clock_that_is_set_while_a_run_is_on_changes_no_times() {
        // As if the system's clock had been set since.
        let clock = Clock { time: 1.7e9, started: Instant::now() };
        let times = [clock.now(), clock.now()];
        assert!(times[0] <= times[1] && (1.7e9..1.7e9 + 1000.0).contains(&times[1]), "{times:?}");
    }

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
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(other.finish(Duration::from_secs(20)).unwrap().contains("attempt-1.jsonl"));
        assert_eq!(read_events(run.path()).unwrap(), (events.to_vec(), 2));
    }
}
