//! Writes the files of a launch from a thread of its own, because the file system may not answer for any time.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::files::{FilesError, to_json, write_atomically};

/// A write that takes longer is reported.
const SLOW: Duration = Duration::from_secs(5);
/// Contents of this many bytes may wait. Further files are given up, and that is reported.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// Writes files in the order in which they were put. Of several contents that wait for one path, only the newest is
/// written. No method but [`finish`](Self::finish) blocks. Clones share the thread.
#[derive(Debug, Clone)]
pub(crate) struct FileWriter {
    handle: Arc<Handle>,
}

/// Ends the thread when dropped.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    order: VecDeque<PathBuf>,
    contents: BTreeMap<PathBuf, Vec<u8>>,
    bytes: usize,
    /// The file that is being written, and since when.
    writing: Option<(PathBuf, Instant)>,
    /// Why the last write of a file failed.
    failed: BTreeMap<PathBuf, String>,
    /// Nothing comes any more.
    is_closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let waiting = self.lock();
            let idle = |waiting: &mut Waiting| waiting.order.is_empty() && !waiting.is_closed;
            let mut waiting = self.changed.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner);
            let Some(path) = waiting.order.pop_front() else { return };
            let Some(content) = waiting.contents.remove(&path) else { continue };
            waiting.bytes -= content.len();
            waiting.writing = Some((path.clone(), Instant::now()));
            drop(waiting);
            let written = write_atomically(&path, &content);
            let mut waiting = self.lock();
            waiting.writing = None;
            match written {
                Ok(()) => _ = waiting.failed.remove(&path),
                Err(error) => _ = waiting.failed.insert(path, error.to_string()),
            }
            self.changed.notify_all();
        }
    }
}

impl FileWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system provides no thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        std::thread::Builder::new().name("files".into()).spawn(move || own.run())?;
        Ok(Self { handle: Arc::new(Handle { shared }) })
    }

    /// Writes a file soon, atomically, and creates its folder.
    pub(crate) fn put(&self, path: &Path, content: Vec<u8>) {
        let mut waiting = self.handle.shared.lock();
        let before = waiting.contents.get(path).map_or(0, Vec::len);
        if waiting.bytes - before + content.len() > MAX_WAITING_BYTES {
            let reason = format!("{}: not written, because too much waits for the file system", path.display());
            waiting.failed.insert(path.to_owned(), reason);
            return;
        }
        waiting.bytes = waiting.bytes - before + content.len();
        if waiting.contents.insert(path.to_owned(), content).is_none() {
            waiting.order.push_back(path.to_owned());
        }
        self.handle.shared.changed.notify_all();
    }

    /// Like [`put`](Self::put), with `content` as JSON.
    ///
    /// # Errors
    /// If it cannot be expressed as JSON.
    pub(crate) fn put_json(&self, path: &Path, content: &impl Serialize) -> Result<(), FilesError> {
        self.put(path, to_json(path, content)?);
        Ok(())
    }

    /// Returns what keeps the files from being up to date: a write that failed, or one that takes long.
    pub(crate) fn problem(&self) -> Option<String> {
        let waiting = self.handle.shared.lock();
        let slow = waiting.writing.as_ref().filter(|(_, since)| since.elapsed() > SLOW).map(|(path, _)| {
            format!("{}: the file system has not answered for {} s; the run continues", path.display(), SLOW.as_secs())
        });
        slow.or_else(|| waiting.failed.values().next().cloned())
    }

    /// Waits until all files are written, but not longer than `patience`.
    ///
    /// # Errors
    /// If files are not written: why, as text.
    pub(crate) fn finish(&self, patience: Duration) -> Result<(), String> {
        let is_busy = |waiting: &mut Waiting| !waiting.order.is_empty() || waiting.writing.is_some();
        let shared = &self.handle.shared;
        let waited = shared.changed.wait_timeout_while(shared.lock(), patience, is_busy);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if is_busy(&mut waiting) {
            let path = waiting.writing.as_ref().map(|(path, _)| path.display().to_string()).unwrap_or_default();
            let left = waiting.order.len() + usize::from(waiting.writing.is_some());
            return Err(format!(
                "{path}: the file system does not answer; {left} files of the launch are not up to date"
            ));
        }
        waiting.failed.values().next().cloned().map_or(Ok(()), Err)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn the_newest_content_is_written_and_a_failure_is_reported_until_a_write_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let writer = FileWriter::start().unwrap();
        let path = folder.path().join("new/state.json");
        for number in 0..100 {
            writer.put_json(&path, &number).unwrap();
        }
        writer.finish(PATIENCE).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "99\n");

        let blocked = folder.path().join("file/state.json");
        std::fs::write(folder.path().join("file"), "no folder").unwrap();
        writer.put_json(&blocked, &1).unwrap();
        let reason = writer.finish(PATIENCE).unwrap_err();
        assert!(reason.contains("file") && writer.problem() == Some(reason.clone()), "{reason}");
        std::fs::remove_file(folder.path().join("file")).unwrap();
        writer.put_json(&blocked, &2).unwrap();
        writer.finish(PATIENCE).unwrap();
        assert_eq!((writer.problem(), std::fs::read_to_string(&blocked).unwrap().as_str()), (None, "2\n"));
    }

    #[test]
    fn too_much_that_waits_is_given_up_and_reported() {
        let folder = tempfile::tempdir().unwrap();
        let writer = FileWriter::start().unwrap();
        let path = folder.path().join("large");
        writer.put(&path, vec![0; MAX_WAITING_BYTES + 1]);
        assert!(writer.finish(PATIENCE).unwrap_err().contains("too much waits"));
        assert!(!path.exists());
    }
}
