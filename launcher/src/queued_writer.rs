//! Writes lines from a thread of its own, because a terminal, a pipe or a disk may take none for any time.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines of this many bytes may wait. Further lines are dropped, and their number is written later.
const MAX_WAITING_BYTES: usize = 1 << 20;

/// Opens the destination. It runs in the writing thread, because opening may block too.
type Open = Box<dyn FnOnce() -> io::Result<Box<dyn Write>> + Send>;

/// A queue of lines and the thread that writes them. [`push`](Self::push) never blocks.
#[derive(Debug)]
pub(crate) struct QueuedWriter {
    queue: Arc<Queue>,
    /// Returns the line that stands for dropped lines.
    note: fn(u64) -> String,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    /// The bytes of the waiting lines and of those that are being written.
    bytes: usize,
    /// Dropped after the last line that waits.
    dropped: u64,
    is_writing: bool,
    /// No line comes any more, or nothing can be written.
    is_closed: bool,
}

impl Waiting {
    fn is_idle(&self) -> bool {
        self.is_closed || (self.lines.is_empty() && self.dropped == 0 && !self.is_writing)
    }

    fn put(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    /// Puts the line that stands for dropped lines in their place.
    fn put_note(&mut self, note: fn(u64) -> String) {
        if self.dropped > 0 {
            let text = note(std::mem::take(&mut self.dropped)) + "\n";
            self.put(text.into_bytes());
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what comes until the queue is closed.
    fn write_to(&self, out: &mut dyn Write, note: fn(u64) -> String) {
        loop {
            let mut waiting = self.lock();
            while waiting.lines.is_empty() && waiting.dropped == 0 && !waiting.is_closed {
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            if waiting.lines.is_empty() {
                waiting.put_note(note);
            }
            if waiting.lines.is_empty() {
                return;
            }
            let lines: Vec<Vec<u8>> = waiting.lines.drain(..).collect();
            waiting.is_writing = true;
            drop(waiting);
            let text = lines.concat();
            let written = out.write_all(&text).and_then(|()| out.flush());
            let mut waiting = self.lock();
            waiting.bytes -= text.len();
            waiting.is_writing = false;
            let has_failed = written.is_err();
            // A reader that is gone stays gone. A disk that is full may have room again.
            match written {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => waiting.is_closed = true,
                Err(_) => waiting.dropped += lines.len() as u64,
                Ok(()) => {}
            }
            if waiting.is_closed && waiting.lines.is_empty() {
                waiting.dropped = 0;
            }
            // After an error, the next line makes the next try.
            let must_wait = has_failed && waiting.lines.is_empty();
            self.changed.notify_all();
            if must_wait {
                drop(self.changed.wait_while(waiting, |waiting| waiting.lines.is_empty() && !waiting.is_closed));
            }
        }
    }
}

impl QueuedWriter {
    /// Starts the thread. It opens the destination; if that fails, it calls `refused` and all lines are dropped.
    pub(crate) fn start(
        name: &str,
        note: fn(u64) -> String,
        open: Open,
        refused: impl FnOnce(io::Error) + Send + 'static,
    ) -> Self {
        let queue = Arc::new(Queue::default());
        let own = Arc::clone(&queue);
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            match open() {
                Ok(mut out) => own.write_to(&mut *out, note),
                Err(error) => refused(error),
            }
            own.lock().is_closed = true;
            own.changed.notify_all();
        });
        // Without a thread nothing can be written, which must not end a run.
        queue.lock().is_closed |= spawned.is_err();
        Self { queue, note }
    }

    /// Appends a line. If too many wait already, it is dropped and counted.
    pub(crate) fn push(&self, line: Vec<u8>) {
        let mut waiting = self.queue.lock();
        if waiting.is_closed {
            return;
        }
        if waiting.bytes + line.len() > MAX_WAITING_BYTES {
            waiting.dropped += 1;
            return;
        }
        waiting.put_note(self.note);
        waiting.put(line);
        self.queue.changed.notify_all();
    }

    /// Waits until all lines are written, but not longer than `patience`. Returns whether they are.
    pub(crate) fn finish(&self, patience: Duration) -> bool {
        let waited = self.queue.changed.wait_timeout_while(self.queue.lock(), patience, |waiting| !waiting.is_idle());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_idle()
    }
}

impl Drop for QueuedWriter {
    fn drop(&mut self) {
        self.queue.lock().is_closed = true;
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Waits for a permission before each write, and tells what was written.
    struct Gate {
        permissions: Receiver<()>,
        written: Sender<String>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.permissions.recv().map_err(io::Error::other)?;
            self.written.send(String::from_utf8_lossy(bytes).into_owned()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (QueuedWriter, Sender<()>, Receiver<String>) {
        let ((permit, permissions), (written, seen)) = (channel(), channel());
        let open = Box::new(move || Ok(Box::new(Gate { permissions, written }) as Box<dyn Write>));
        (QueuedWriter::start("gate", |n| format!("({n} dropped)"), open, |_| {}), permit, seen)
    }

    #[test]
    fn a_blocked_destination_blocks_nobody_and_dropped_lines_are_counted_in_their_place() {
        let (writer, permit, seen) = gated();
        let line = |letter: u8| [vec![letter; MAX_WAITING_BYTES / 4 - 1], vec![b'\n']].concat();
        for letter in b'a'..=b'f' {
            writer.push(line(letter));
        }
        assert!(!writer.finish(Duration::from_millis(50)), "nothing is written");
        for _ in 0..8 {
            permit.send(()).unwrap();
        }
        assert!(writer.finish(PATIENCE));
        writer.push(b"later\n".to_vec());
        assert!(writer.finish(PATIENCE));
        drop(writer);
        drop(permit);
        let text: String = seen.iter().collect();
        let firsts: Vec<&str> = text.lines().map(|line| &line[..line.len().min(11)]).collect();
        assert_eq!(firsts, ["aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc", "ddddddddddd", "(2 dropped)", "later"]);
    }

    #[test]
    fn a_reader_that_is_gone_ends_the_waiting() {
        let (writer, permit, _) = gated();
        drop(permit);
        writer.push(b"lost\n".to_vec());
        writer.finish(Duration::from_millis(50));
        writer.push(b"lost\n".to_vec());
        let gone = QueuedWriter::start("gone", |_| String::new(), Box::new(|| Err(io::Error::other("no"))), |_| {});
        gone.push(b"lost\n".to_vec());
        assert!(gone.finish(PATIENCE), "nothing waits for a destination that cannot be opened");
    }
}
