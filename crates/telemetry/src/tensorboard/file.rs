//! One event file after the other in a folder, and what waits to be written.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use super::proto::{Event, SessionLog, SessionStatus, What};
use super::record;

/// Bytes kept while the file cannot be written.
const KEPT: usize = 32 << 20;

/// Records for an event file, and the file, made when there is something to write.
pub(super) struct EventFile {
    folder: PathBuf,
    first_step: i64,
    open: Option<Open>,
    /// Files made so far, part of the next one's name.
    num_files: u32,
    /// Whether a file with the purge marker exists.
    marked: bool,
    kept: Vec<u8>,
}

struct Open {
    path: PathBuf,
    file: File,
    /// Bytes of whole records.
    length: u64,
}

impl EventFile {
    /// No file yet; `first_step` goes into the purge marker.
    pub(super) fn new(folder: PathBuf, first_step: i64) -> Self {
        Self { folder, first_step, open: None, num_files: 0, marked: false, kept: Vec::new() }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps an event for the next write; false when there is no room.
    pub(super) fn keep(&mut self, event: &Event) -> bool {
        let room = self.kept.len() + event.encoded_len() <= KEPT;
        if room {
            record::append(&mut self.kept, &event.encode_to_vec());
        }
        room
    }

    /// Writes what is kept. After an error everything is still kept, the file ends after a whole record, and
    /// the next call tries again.
    pub(super) fn write(&mut self, now: f64) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| !open.path.exists()) {
            // Somebody removed it: what is written into it now would be lost without a word.
            self.open = None;
            self.marked = false;
            let gone = io::Error::new(io::ErrorKind::NotFound, "the event file was removed; a new one is begun");
            return Err(gone);
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let open = create(&self.folder, now, &mut self.num_files)?;
                self.kept.splice(0..0, beginning(now, (!self.marked).then_some(self.first_step)));
                self.marked = true;
                self.open.insert(open)
            }
        };
        if let Err(error) = open.file.write_all(&self.kept) {
            // A torn record would end the file for its readers.
            let whole = open.length;
            if open.file.set_len(whole).and_then(|()| open.file.seek(io::SeekFrom::Start(whole))).is_err() {
                self.open = None;
            }
            return Err(error);
        }
        open.length += self.kept.len() as u64;
        self.kept.clear();
        Ok(())
    }
}

/// The first records of a file: its version, and where the curves of this process begin.
fn beginning(now: f64, first_step: Option<i64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let version = What::FileVersion("brain.Event:2".into());
    record::append(&mut bytes, &Event { wall_time: now, step: 0, what: Some(version) }.encode_to_vec());
    if let Some(step) = first_step {
        let start = What::SessionLog(SessionLog { status: SessionStatus::Start.into() });
        record::append(&mut bytes, &Event { wall_time: now, step, what: Some(start) }.encode_to_vec());
    }
    bytes
}

/// Makes a new file whose name sorts after older ones: TensorBoard reads them in that order.
fn create(folder: &Path, now: f64, number: &mut u32) -> io::Result<Open> {
    std::fs::create_dir_all(folder)?;
    let start = format!("events.out.tfevents.{:010}.{}.{}", now as u64, host_name(), std::process::id());
    loop {
        let path = folder.join(format!("{start}.{number:04}"));
        *number += 1;
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok(Open { path, file, length: 0 }),
            // Another writer of this process, in the same second.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String =
        name.trim().chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    if name.is_empty() { "host".into() } else { name }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn event(step: i64) -> Event {
        Event { wall_time: 1.0, step, what: None }
    }

    fn framed(events: &[Event]) -> Vec<u8> {
        let mut bytes = Vec::new();
        events.iter().for_each(|event| record::append(&mut bytes, &event.encode_to_vec()));
        bytes
    }

    #[test]
    fn what_a_full_disk_refuses_is_kept_for_later() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::new(folder.path().into(), 1);
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        events.open = Some(Open { path: "/dev/full".into(), file: full, length: 0 });
        assert!(events.keep(&event(1)));
        assert_eq!(events.write(5.0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(events.keep(&event(2)));
        events.write(5.0).unwrap();
        let written = std::fs::read(&events.open.as_ref().unwrap().path).unwrap();
        assert_eq!(written, [beginning(5.0, Some(1)), framed(&[event(1), event(2)])].concat());
        assert!(events.kept.is_empty());
    }

    #[test]
    fn memory_for_a_disk_that_stays_full_is_bounded() {
        let mut events = EventFile::new("unused".into(), 1);
        let big = Event { wall_time: 1.0, step: 1, what: Some(What::FileVersion("x".repeat(KEPT / 4))) };
        assert_eq!([0; 5].map(|_| events.keep(&big)), [true, true, true, false, false]);
    }
}
