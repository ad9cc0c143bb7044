//! The file for node_exporter's textfile collector.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use admiral_contract::files::replace;

use crate::encode::{Format, encode};
use crate::failures::Failures;
use crate::source::Source;

/// The end of the name of the file that is being written. node_exporter reads only names that end in `.prom`.
const ASIDE: &str = ".partial";

/// The time between two looks at the thread that writes.
const POLL: Duration = Duration::from_millis(5);

/// Writes the metrics to a file at an interval, and once more at the end, from a thread of its own.
#[derive(Debug)]
pub(crate) struct Textfile {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Textfile {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system provides no thread.
    pub(crate) fn start(
        path: PathBuf,
        interval: Duration,
        source: Arc<dyn Source>,
        failures: Failures,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = sync_channel(0);
        let write = move || {
            loop {
                if let Err(error) = write(&path, &*source) {
                    failures.add(&format!("{}: {error}; the metrics there are old", path.display()));
                }
                match stopped.recv_timeout(interval) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            if let Err(error) = write(&path, &*source) {
                failures.add(&format!("{}: {error}; the metrics there are old", path.display()));
            }
        };
        let thread = std::thread::Builder::new().name("textfile".into()).spawn(write)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Has the file written a last time. Returns when that is done, or after `patience`.
    pub(crate) fn finish(mut self, patience: Duration) {
        self.stop = None;
        let end = Instant::now() + patience;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < end {
            std::thread::sleep(POLL);
        }
    }
}

fn write(path: &Path, source: &dyn Source) -> std::io::Result<()> {
    let text = encode(&source.table(), Format::Prometheus);
    replace(path, ASIDE, |mut file| file.write_all(text.as_bytes()).map(|()| file))
}
