//! A rank's output: all of it goes to a file, the last lines into a report, and selected lines to the launcher.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use admiral_contract::files::open_regular;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::outbox::Outbox;
use crate::protocol::{FromAgent, MAX_LINE, Start, truncate_line};
use crate::queued_writer::QueuedWriter;

/// The number of last lines in a report.
const NUM_LAST_LINES: usize = 30;

/// The output of a rank.
pub(super) struct RankOutput {
    last: Arc<Mutex<VecDeque<String>>>,
    log: Arc<QueuedWriter>,
    readers: Vec<JoinHandle<()>>,
}

struct LineSink {
    /// The rank's log. A file system that does not answer must not keep the agent from its heartbeats.
    log: Arc<QueuedWriter>,
    last: Arc<Mutex<VecDeque<String>>>,
    to_launcher: Outbox,
    show: bool,
}

/// Writes the rank's whole output to a file.
fn log_to(path: &Path, to_launcher: Outbox) -> QueuedWriter {
    let (path, shown) = (path.to_owned(), path.display().to_string());
    let open = move || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = open_regular(&path, File::options().create(true).append(true))?;
        Ok(Box::new(file) as Box<dyn Write>)
    };
    // A rank trains even if its host cannot store the output.
    let refused = move |error| {
        to_launcher.send(FromAgent::Line { text: format!("warning: the output is not kept in {shown}: {error}") });
    };
    let note = |dropped| format!("({dropped} lines are missing here: they could not be written in time)");
    QueuedWriter::start("rank-log", note, Box::new(open), refused)
}

impl RankOutput {
    pub(super) fn capture(child: &mut Child, start: &Start, to_launcher: Outbox) -> Self {
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let log = Arc::new(log_to(&start.log, to_launcher.clone()));
        let sink = Arc::new(LineSink { log: Arc::clone(&log), last: Arc::clone(&last), to_launcher, show: start.show });
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(tokio::spawn(read(stdout, Arc::clone(&sink))));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(tokio::spawn(read(stderr, sink)));
        }
        Self { last, log, readers }
    }

    /// Waits until the log is written, but not longer than `patience`. Blocks.
    pub(super) fn finish(&self, patience: Duration) {
        self.log.finish(patience);
    }

    /// Returns the last lines, after the process has ended. Does not wait for grandchildren that still print.
    pub(super) async fn last_lines(&mut self) -> Vec<String> {
        for reader in self.readers.drain(..) {
            let _ = timeout(Duration::from_millis(300), reader).await;
        }
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Reads lines of arbitrary bytes. Long lines are split.
async fn read(stream: impl AsyncRead + Unpin, sink: Arc<LineSink>) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        let (taken, ends) = match reader.fill_buf().await {
            Ok(bytes) if !bytes.is_empty() => {
                let end = bytes.iter().position(|&byte| byte == b'\n');
                let stop = end.map_or(bytes.len(), |end| end + 1).min(MAX_LINE);
                line.extend_from_slice(&bytes[..stop]);
                (stop, bytes[..stop].ends_with(b"\n") || line.len() >= MAX_LINE)
            }
            _ => break,
        };
        reader.consume(taken);
        if ends {
            sink.write_line(&line);
            line.clear();
        }
    }
    if !line.is_empty() {
        sink.write_line(&line);
    }
}

impl LineSink {
    fn write_line(&self, line: &[u8]) {
        let mut whole = line.to_vec();
        if !whole.ends_with(b"\n") {
            whole.push(b'\n');
        }
        self.log.push(whole);
        let text = String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_owned();
        if self.show || is_error(&text) {
            self.to_launcher.send(FromAgent::Line { text: truncate_line(&text).to_owned() });
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == NUM_LAST_LINES {
            last.pop_front();
        }
        last.push_back(truncate_line(&text).to_owned());
    }
}

/// Returns whether a line is shown from every rank: Admiral's error message, its log lines of level ERROR, a panic, or
/// an abort of a library.
fn is_error(line: &str) -> bool {
    let plain = line.strip_prefix("[rank ").and_then(|rest| rest.split_once("] ")).map_or(line, |(_, rest)| rest);
    plain.starts_with("error: ")
        || plain.split_whitespace().nth(1) == Some("ERROR")
        || plain.contains("\"level\":\"ERROR\"")
        || plain.contains(" panicked at ")
        || plain.starts_with("terminate called")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_lines_are_recognized() {
        for line in [
            "error: no such file",
            "[rank 3] error: no such file",
            "[rank 3] 2026-01-01T00:00:00.000000Z ERROR admiral::train: bad",
            "2026-01-01T00:00:00.000000Z ERROR admiral::train: bad",
            "{\"timestamp\":\"x\",\"level\":\"ERROR\"}",
            "thread 'main' (7) panicked at src/x.rs:1:1:",
        ] {
            assert!(is_error(line), "{line}");
        }
        for line in ["step 20/60  loss 0.9", "[rank 1] 2026-01-01T00:00:00Z  INFO admiral: no ERROR here", ""] {
            assert!(!is_error(line), "{line}");
        }
    }
}
