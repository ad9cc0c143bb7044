//! Event files that TensorBoard reads, written by a thread of their own.
//!
//! The caller is never slowed and never fails: what does not fit into the queue is dropped and counted, and what
//! cannot be written is logged once, counted, and tried again at the next flush.

mod file;
mod proto;
mod record;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Grid;
use super::metrics::{Metric, MetricSink};
use file::EventFile;
use proto::{Content, DATA_CLASS_TENSOR, DT_STRING, Event, Image, Metadata, PluginData, Scalar, StringTensor};
use proto::{Summary, Value, What};

/// Entries that may wait for the writer: many log steps of scalars.
const QUEUE: usize = 4096;
/// The longest a closing writer is waited for.
const CLOSING: Duration = Duration::from_secs(5);

/// A writer of event files. Rank 0 has one; the others have [`TensorBoard::off`].
#[derive(Debug)]
pub struct TensorBoard {
    queue: Option<SyncSender<Message>>,
    finished: Option<Receiver<()>>,
    counts: Arc<Counts>,
}

/// What went wrong, shared with the thread.
#[derive(Debug, Default)]
struct Counts {
    dropped: AtomicU64,
    errors: AtomicU64,
}

impl Counts {
    /// Counts an error, and logs the first.
    fn error(&self, what: &str, error: &dyn std::fmt::Display) {
        if self.errors.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("TensorBoard: {what}: {error}; training goes on, further errors are only counted");
        }
    }
}

enum Message {
    Entry { wall_time: f64, step: u64, tag: String, content: Entry },
    Flush(SyncSender<()>),
}

enum Entry {
    Scalar(f64),
    Image(Grid),
    Text(String),
}

impl TensorBoard {
    /// Starts to write into `folder`, which is made where it is missing, at least every `flush_interval`.
    ///
    /// `first_step` is the first step that this process can write: TensorBoard forgets what earlier processes
    /// wrote for it and later ones, so that the curves of a resumed run do not overlap.
    pub fn open(folder: &Path, first_step: u64, flush_interval: Duration) -> Self {
        let counts = Arc::new(Counts::default());
        let (queue, messages) = sync_channel(QUEUE);
        let (finish, finished) = sync_channel(1);
        let (folder, shared) = (PathBuf::from(folder), Arc::clone(&counts));
        let started = std::thread::Builder::new().name("tensorboard".into()).spawn(move || {
            Writer { file: EventFile::new(folder, to_i64(first_step)), counts: shared, flush_interval }.run(&messages);
            let _ = finish.send(()); // nobody may be waiting any more
        });
        match started {
            Ok(_) => Self { queue: Some(queue), finished: Some(finished), counts },
            Err(error) => {
                counts.error("its thread cannot be started", &error);
                Self { queue: None, finished: None, counts }
            }
        }
    }

    /// A writer that writes nothing.
    pub fn off() -> Self {
        Self { queue: None, finished: None, counts: Arc::default() }
    }

    /// A point of the curve `tag`. Kept as float32, as the format has it.
    pub fn scalar(&self, tag: &str, step: u64, value: f64) {
        self.send(tag, step, || Entry::Scalar(value));
    }

    /// A picture, shown as PNG. A picture that PNG cannot hold counts as an error.
    pub fn image(&self, tag: &str, step: u64, picture: Grid) {
        self.send(tag, step, || Entry::Image(picture));
    }

    /// A text in Markdown.
    pub fn text(&self, tag: &str, step: u64, markdown: &str) {
        self.send(tag, step, || Entry::Text(markdown.to_owned()));
    }

    /// Waits until what was given so far is written (or has failed to be), at most `limit`; false when it was not
    /// finished in time.
    pub fn flush(&self, limit: Duration) -> bool {
        let Some(queue) = &self.queue else { return true };
        let (answer, answered) = sync_channel(1);
        queue.try_send(Message::Flush(answer)).is_ok() && answered.recv_timeout(limit).is_ok()
    }

    /// Entries that were lost because the queue, or the memory kept for a file that cannot be written, was full.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Failed attempts to write or to encode.
    pub fn errors(&self) -> u64 {
        self.counts.errors.load(Ordering::Relaxed)
    }

    fn send(&self, tag: &str, step: u64, content: impl FnOnce() -> Entry) {
        let Some(queue) = &self.queue else { return };
        let wall_time = seconds_since_1970(SystemTime::now());
        let message = Message::Entry { wall_time, step, tag: tag.to_owned(), content: content() };
        match queue.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl MetricSink for TensorBoard {
    fn record(&self, metric: Metric<'_>) {
        self.scalar(metric.name, metric.step, metric.value);
    }

    /// Does nothing: the writer's thread decides when it writes.
    fn commit(&self, _step: u64, _now: Instant) {}
}

impl Drop for TensorBoard {
    /// Writes what is left, for at most five seconds.
    fn drop(&mut self) {
        self.queue = None; // the thread ends when no sender is left
        if let Some(finished) = self.finished.take()
            && matches!(finished.recv_timeout(CLOSING), Err(RecvTimeoutError::Timeout))
        {
            tracing::warn!("TensorBoard: the last entries could not be written within {} s", CLOSING.as_secs());
        }
    }
}

struct Writer {
    file: EventFile,
    counts: Arc<Counts>,
    flush_interval: Duration,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        let mut next_flush = Instant::now(); // a folder that cannot be written is found out at once
        loop {
            let wait = next_flush.saturating_duration_since(Instant::now());
            match messages.recv_timeout(wait) {
                Ok(Message::Entry { wall_time, step, tag, content }) => self.keep(wall_time, step, tag, content),
                Ok(Message::Flush(answer)) => {
                    self.write();
                    let _ = answer.send(()); // the caller may have stopped waiting
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() >= next_flush {
                self.write();
                next_flush = Instant::now() + self.flush_interval;
            }
        }
        self.write();
    }

    fn keep(&mut self, wall_time: f64, step: u64, tag: String, content: Entry) {
        match value(tag, content) {
            Ok(value) => {
                let what = Some(What::Summary(Summary { value: vec![value] }));
                if !self.file.keep(&Event { wall_time, step: to_i64(step), what }) {
                    self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(error) => self.counts.error("a picture is left out", &error),
        }
    }

    fn write(&mut self) {
        if let Err(error) = self.file.write(seconds_since_1970(SystemTime::now())) {
            self.counts.error(&format!("{} cannot be written", self.file.folder().display()), &error);
        }
    }
}

fn value(tag: String, content: Entry) -> Result<Value, super::GridError> {
    let (content, metadata) = match content {
        Entry::Scalar(value) => (Content::SimpleValue(value as f32), None),
        Entry::Image(picture) => {
            let encoded_image_string = picture.png()?;
            // The encoder has refused what does not fit into 32 bits.
            let side = |pixels: usize| i32::try_from(pixels).unwrap_or(i32::MAX);
            let image = Image {
                height: side(picture.height),
                width: side(picture.width),
                colorspace: side(picture.channels),
                encoded_image_string,
            };
            (Content::Image(image), None)
        }
        Entry::Text(markdown) => {
            let tensor =
                StringTensor { dtype: DT_STRING, shape: Some(Scalar {}), string_val: vec![markdown.into_bytes()] };
            let plugin_data = Some(PluginData { plugin_name: "text".into() });
            (Content::Tensor(tensor), Some(Metadata { plugin_data, data_class: DATA_CLASS_TENSOR }))
        }
    };
    Ok(Value { tag, metadata, content: Some(content) })
}

fn to_i64(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}

/// A clock before 1970 counts as 1970.
fn seconds_since_1970(now: SystemTime) -> f64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_is_off_does_nothing() {
        let off = TensorBoard::off();
        off.scalar("loss", 1, 0.5);
        assert!(off.flush(Duration::from_secs(1)));
        assert_eq!((off.dropped(), off.errors()), (0, 0));
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (queue, messages) = sync_channel(2);
        let full = TensorBoard { queue: Some(queue), finished: None, counts: Arc::default() };
        for step in 0..5 {
            full.scalar("loss", step, 0.5);
        }
        assert_eq!(full.dropped(), 3);
        drop(messages);
        full.scalar("loss", 5, 0.5);
        assert_eq!(full.dropped(), 4, "a thread that is gone loses entries, too");
    }

    #[test]
    fn a_recorded_metric_becomes_a_scalar() {
        let (queue, messages) = sync_channel(2);
        let board = TensorBoard { queue: Some(queue), finished: None, counts: Arc::default() };
        let sink: &dyn MetricSink = &board;
        sink.record(Metric::seconds("data_wait_seconds", 7, 0.25));
        sink.commit(7, Instant::now());
        match messages.try_recv() {
            Ok(Message::Entry { step, tag, content: Entry::Scalar(value), .. }) => {
                assert_eq!((tag.as_str(), step, value), ("data_wait_seconds", 7, 0.25));
            }
            _ => panic!("no scalar"),
        }
        assert!(messages.try_recv().is_err(), "a commit sends nothing");
    }
}
