//! Standard error, which may take nothing for any time: a stopped terminal, or a pipe that nobody reads.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::printable;
use crate::secret::masked_text;

/// A write waits this long at most for a terminal or pipe that takes nothing. Further writes do not wait until it takes
/// text again.
const PATIENCE: Duration = Duration::from_millis(500);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// Writes to standard error. A terminal or pipe that takes nothing stops nobody: text is lost then, and a later line counts
/// the lost messages.
#[derive(Debug)]
pub struct StandardError {
    stream: Stream,
    state: Mutex<State>,
}

#[derive(Debug)]
enum Stream {
    /// A terminal or a pipe. It is opened anew without blocking, because other processes share the inherited one.
    NonBlocking(File),
    /// Anything else, such as a file.
    Inherited(File),
    /// It is closed.
    None,
}

#[derive(Debug, Default)]
struct State {
    /// The last write did not end.
    is_blocked: bool,
    /// The last write ended in the middle of a text.
    is_cut: bool,
    /// Messages since the last one that was written.
    lost: u64,
}

impl StandardError {
    /// Returns the standard error of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self::new(io::stderr())
    }

    fn new(stream: impl AsFd) -> Self {
        let stream = stream.as_fd().try_clone_to_owned().map_or(Stream::None, Stream::open);
        Self { stream, state: Mutex::default() }
    }

    /// Writes a message. Errors are ignored, because the reader may be gone.
    pub fn write(&self, message: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = if state.is_blocked { Duration::ZERO } else { PATIENCE };
        if state.lost > 0 {
            let start = if state.is_cut { "\n" } else { "" };
            let note = format!("{start}{} messages are not shown, because nothing took them in time\n", state.lost);
            if !self.put(note.as_bytes(), patience, &mut state) {
                state.lost += 1;
                return;
            }
            state.lost = 0;
        }
        if !self.put(message, patience, &mut state) {
            state.lost += 1;
        }
    }

    /// Writes what replaces text on a terminal. It is not missed if it cannot be written at once.
    pub fn redraw(&self, text: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.put(text, Duration::ZERO, &mut state);
    }

    /// Returns whether nothing is left to write.
    fn put(&self, text: &[u8], patience: Duration, state: &mut State) -> bool {
        let rest = self.stream.write(text, patience);
        state.is_blocked = rest > 0;
        state.is_cut = rest > 0 && (rest < text.len() || state.is_cut);
        rest == 0
    }
}

impl Stream {
    fn open(inherited: OwnedFd) -> Self {
        let inherited = File::from(inherited);
        let kind = inherited.metadata().map(|meta| meta.file_type());
        if kind.is_ok_and(|kind| kind.is_fifo() || kind.is_char_device()) {
            let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
            let path = format!("/proc/self/fd/{}", inherited.as_raw_fd());
            if let Ok(own) = OpenOptions::new().write(true).custom_flags(flags).open(path) {
                return Self::NonBlocking(own);
            }
        }
        Self::Inherited(inherited)
    }

    /// Writes text, and returns the number of bytes that it did not take in time.
    fn write(&self, mut text: &[u8], patience: Duration) -> usize {
        let mut file = match self {
            Self::NonBlocking(file) | Self::Inherited(file) => file,
            Self::None => return 0,
        };
        let mut progress = Instant::now();
        while !text.is_empty() {
            match file.write(text) {
                Ok(written) => (text, progress) = (&text[written..], Instant::now()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if progress.elapsed() >= patience {
                        return text.len();
                    }
                    std::thread::sleep(PAUSE);
                }
                // The reader is gone, or the disk is full.
                Err(_) => return 0,
            }
        }
        0
    }
}

/// Prints an error message on standard error. Writes the whole line in one call, so that the messages of several processes
/// do not mix. Ignores a standard error that is closed or takes nothing. Secrets are not shown.
pub fn print_error(message: &impl Display) {
    let message = masked_text(&message.to_string());
    StandardError::of_process().write(format!("error: {}\n", printable(&message)).as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;

    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_stops_nobody_and_lost_messages_are_counted() {
        let (mut reader, writer) = io::pipe().unwrap();
        let error = StandardError::new(&writer);
        drop(writer);
        error.write(b"first\n");
        let long = vec![b'x'; 1 << 20];
        error.write(&long);
        error.write(b"lost\n");
        error.redraw(b"a bar");
        let mut start = vec![0; 1 << 15];
        reader.read_exact(&mut start).unwrap();
        assert!(start.starts_with(b"first\nxxx"));
        error.write(b"last\n");
        drop(error);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        let rest = String::from_utf8(rest).unwrap();
        let end = "\n2 messages are not shown, because nothing took them in time\nlast\n";
        assert_eq!(rest.trim_start_matches('x'), end);
    }

    #[test]
    fn files_are_appended_to_and_a_reader_that_is_gone_is_ignored() {
        let mut file = tempfile();
        file.write_all(b"before\n").unwrap();
        StandardError::new(&file).write(b"after\n");
        assert_eq!(std::fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap(), b"before\nafter\n");
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        StandardError::new(&writer).write(b"lost\n");
    }

    /// A file without a name.
    fn tempfile() -> File {
        let path = std::env::temp_dir().join(format!("admiral-standard-error-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }
}
