//! The event file of a process, and the records that wait to be written to it.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use admiral_contract::host::host_name;
use prost::Message;

use super::proto::{Event, EventContent, SessionLog, SessionStatus};
use super::record;

/// The most bytes that wait in memory while the file cannot be written.
const MAX_PENDING: usize = 32 << 20;

/// An event file and its pending records. The first write creates the file. If the file is removed, or an incomplete
/// record cannot be removed from it, a later write starts another file.
pub(super) struct EventFile {
    folder: PathBuf,
    first_step: i64,
    open: Option<OpenFile>,
    /// The number of files created so far, which is part of the next file's name.
    num_files: u32,
    /// Whether this process has written the purge marker.
    has_purge_marker: bool,
    /// Encoded records that are not written yet.
    pending: Vec<u8>,
}

struct OpenFile {
    path: PathBuf,
    file: File,
    /// The number of bytes of complete records.
    length: u64,
}

impl EventFile {
    /// Returns an event file that is not created yet. `first_step` is the step of the purge marker.
    pub(super) fn new(folder: PathBuf, first_step: i64) -> Self {
        Self { folder, first_step, open: None, num_files: 0, has_purge_marker: false, pending: Vec::new() }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds an event to the pending records. Returns false and drops the event if there is no room.
    pub(super) fn add(&mut self, event: &Event) -> bool {
        let room = self.pending.len() + event.encoded_len() <= MAX_PENDING;
        if room {
            record::append(&mut self.pending, &event.encode_to_vec());
        }
        room
    }

    /// Writes the pending records. `now` is in seconds since 1970. After an error, all records are still pending, the
    /// file ends after a complete record, and the next call retries.
    pub(super) fn write(&mut self, now: f64) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| !open.path.exists()) {
            // Writing to a removed file would lose the records without an error.
            self.open = None;
            self.has_purge_marker = false;
            let gone = io::Error::new(io::ErrorKind::NotFound, "the event file was removed; a new one is begun");
            return Err(gone);
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let open = create(&self.folder, now, &mut self.num_files)?;
                self.pending.splice(0..0, header(now, (!self.has_purge_marker).then_some(self.first_step)));
                self.has_purge_marker = true;
                self.open.insert(open)
            }
        };
        if let Err(error) = open.file.write_all(&self.pending) {
            // Remove an incomplete record, because readers would stop at it.
            let complete = open.length;
            if open.file.set_len(complete).and_then(|()| open.file.seek(io::SeekFrom::Start(complete))).is_err() {
                self.open = None;
            }
            return Err(error);
        }
        open.length += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

/// Returns the first records of a file: the version, and the purge marker if `first_step` is given.
fn header(now: f64, first_step: Option<i64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let version = EventContent::FileVersion("brain.Event:2".into());
    record::append(&mut bytes, &Event { wall_time: now, step: 0, content: Some(version) }.encode_to_vec());
    if let Some(step) = first_step {
        let start = EventContent::SessionLog(SessionLog { status: SessionStatus::Start.into() });
        record::append(&mut bytes, &Event { wall_time: now, step, content: Some(start) }.encode_to_vec());
    }
    bytes
}

/// The start of the name of an event file. The seconds since 1970 follow, in 10 digits.
pub(super) const PREFIX: &str = "events.out.tfevents.";

/// Creates a file whose name sorts after those of the files in the folder, because TensorBoard reads files in this order.
/// The clock does not ensure it: it may have been set back, or may differ from that of the host of the last attempt.
fn create(folder: &Path, now: f64, number: &mut u32) -> io::Result<OpenFile> {
    std::fs::create_dir_all(folder)?;
    let host = file_name_part(&host_name());
    let newest = std::fs::read_dir(folder)?.filter_map(|entry| seconds_of(entry.ok()?.file_name().to_str()?)).max();
    let seconds = newest.map_or(0, |newest| newest + 1).max(now as u64);
    let start = format!("{PREFIX}{seconds:010}.{host}.{}", std::process::id());
    loop {
        let path = folder.join(format!("{start}.{number:04}"));
        *number += 1;
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok(OpenFile { path, file, length: 0 }),
            // Another writer of this process created it in the same second.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns the seconds in the name of an event file. `None` for other names, and for a time after which no later name has
/// 10 digits.
fn seconds_of(name: &str) -> Option<u64> {
    let (seconds, _) = name.strip_prefix(PREFIX)?.split_once('.')?;
    seconds.parse().ok().filter(|seconds: &u64| *seconds < 9_999_999_999)
}

/// Replaces all characters of a host name except letters, digits and `-` by `_`. Returns `host` for an empty name.
fn file_name_part(host_name: &str) -> String {
    if host_name.is_empty() {
        return "host".into();
    }
    host_name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn event(step: i64) -> Event {
        Event { wall_time: 1.0, step, content: None }
    }

    fn framed(events: &[Event]) -> Vec<u8> {
        let mut bytes = Vec::new();
        events.iter().for_each(|event| record::append(&mut bytes, &event.encode_to_vec()));
        bytes
    }

    #[test]
    fn records_stay_pending_while_the_disk_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::new(folder.path().into(), 1);
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        events.open = Some(OpenFile { path: "/dev/full".into(), file: full, length: 0 });
        assert!(events.add(&event(1)));
        assert_eq!(events.write(5.0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(events.add(&event(2)));
        events.write(5.0).unwrap();
        let written = std::fs::read(&events.open.as_ref().unwrap().path).unwrap();
        assert_eq!(written, [header(5.0, Some(1)), framed(&[event(1), event(2)])].concat());
        assert!(events.pending.is_empty());
    }

    #[test]
    fn pending_records_are_bounded() {
        let mut events = EventFile::new("unused".into(), 1);
        let big =
            Event { wall_time: 1.0, step: 1, content: Some(EventContent::FileVersion("x".repeat(MAX_PENDING / 4))) };
        assert_eq!([0; 5].map(|_| events.add(&big)), [true, true, true, false, false]);
    }

    #[test]
    fn a_later_file_sorts_after_an_earlier_one_whatever_the_clock_says() {
        let folder = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        // The clock is set back by an hour, stands still, and is right again.
        for now in [7200.0, 3600.0, 3600.0, 9000.0] {
            let path = create(folder.path(), now, &mut 0).unwrap().path;
            names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
        assert!(names.is_sorted() && names[3].starts_with("events.out.tfevents.0000009000."), "{names:?}");
        for name in ["events.out.tfevents.x.y", "events.out.tfevents.99999999999.h", "other", "events.out.tfevents.5"] {
            assert_eq!(seconds_of(name), None, "{name}");
        }
    }

    #[test]
    fn host_names_are_valid_in_file_names() {
        assert_eq!(file_name_part("gpu-07.example"), "gpu-07_example");
        assert_eq!(file_name_part(""), "host");
    }
}
