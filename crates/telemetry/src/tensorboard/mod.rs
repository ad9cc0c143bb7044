//! Event files for TensorBoard, written by a background thread.
//!
//! The caller never waits and never fails. Entries that do not fit into the queue are dropped and counted. If the file
//! cannot be written, the first error is logged, all errors are counted, and the next flush retries.

mod file;
mod hparams;
mod layout;
mod proto;
mod read;
mod record;

pub use read::{BoardEntry, ImagePlace, LeftOut, read_entries, read_image};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Grid;
use super::metrics::{Metric, MetricSink};
use file::EventFile;
use proto::{DATA_CLASS_TENSOR, DT_FLOAT, DT_STRING, Dim, Event, EventContent, Image, Metadata, PluginData, Shape};
use proto::{StringTensor, Summary, Value, ValueContent};

pub use hparams::Hyperparameter;
pub use layout::ChartGroup;

/// The number of entries that can wait for the writer: many log steps of scalars.
const QUEUE_LENGTH: usize = 4096;
/// The longest time that dropping a [`TensorBoard`] waits for its last entries.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A writer of event files. Only rank 0 writes; the other ranks use [`TensorBoard::off`].
#[derive(Debug)]
pub struct TensorBoard {
    queue: Option<SyncSender<Message>>,
    finished: Option<Receiver<()>>,
    counts: Arc<Counts>,
}

/// The numbers of lost entries and errors, shared with the thread.
#[derive(Debug, Default)]
struct Counts {
    dropped: AtomicU64,
    errors: AtomicU64,
}

impl Counts {
    /// Counts an error and logs it if it is the first.
    fn error(&self, what: &str, error: &dyn std::fmt::Display) {
        if self.errors.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("TensorBoard: {what}: {error}; everything else goes on, further errors are only counted");
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
    /// The layout of the custom scalars.
    Layout(Vec<u8>),
    /// A message for the dashboard of hyperparameters.
    HParams(Vec<u8>),
}

impl TensorBoard {
    /// Starts a thread that writes an event file into `folder` at least every `flush_interval`. The thread creates the
    /// folder if it is missing.
    ///
    /// `first_step` is the first step that this process can write. TensorBoard discards entries of earlier files from
    /// this step on, so that the curves of a resumed run do not overlap.
    pub fn open(folder: &Path, first_step: u64, flush_interval: Duration) -> Self {
        let counts = Arc::new(Counts::default());
        let (queue, messages) = sync_channel(QUEUE_LENGTH);
        let (finish, finished) = sync_channel(1);
        let (folder, shared) = (PathBuf::from(folder), Arc::clone(&counts));
        let started = std::thread::Builder::new().name("tensorboard".into()).spawn(move || {
            Writer { file: EventFile::new(folder, to_i64(first_step)), counts: shared, flush_interval }.run(&messages);
            let _ = finish.send(()); // fails if nobody waits any more
        });
        match started {
            Ok(_) => Self { queue: Some(queue), finished: Some(finished), counts },
            Err(error) => {
                counts.error("its thread cannot be started", &error);
                Self { queue: None, finished: None, counts }
            }
        }
    }

    /// Returns a writer that discards everything.
    pub fn off() -> Self {
        Self { queue: None, finished: None, counts: Arc::default() }
    }

    /// Adds a point to the curve `tag`. The file stores the value as float32.
    pub fn scalar(&self, tag: &str, step: u64, value: f64) {
        self.send(tag, step, || Entry::Scalar(value));
    }

    /// Adds an image, stored as PNG. An image that cannot be encoded counts as an error.
    pub fn image(&self, tag: &str, step: u64, image: Grid) {
        self.send(tag, step, || Entry::Image(image));
    }

    /// Adds a text in Markdown.
    pub fn text(&self, tag: &str, step: u64, markdown: &str) {
        self.send(tag, step, || Entry::Text(markdown.to_owned()));
    }

    /// Records that a run starts with these hyperparameters, which TensorBoard shows beside the last values of the curves
    /// `metrics`. Runs with the same `group` are repetitions of one another.
    pub fn run_starts(&self, step: u64, group: &str, values: &[(String, Hyperparameter)], metrics: &[&str]) {
        let now = seconds_since_1970(SystemTime::now());
        self.send(hparams::EXPERIMENT, step, || Entry::HParams(hparams::experiment(values, metrics, now)));
        self.send(hparams::START, step, || Entry::HParams(hparams::start(values, group, now)));
    }

    /// Records that the run ends, and whether it has done all its steps.
    pub fn run_ends(&self, step: u64, is_finished: bool) {
        let now = seconds_since_1970(SystemTime::now());
        self.send(hparams::END, step, || Entry::HParams(hparams::end(is_finished, now)));
    }

    /// Sets which curves the dashboard of custom scalars shows together.
    pub fn layout(&self, step: u64, groups: &[ChartGroup<'_>]) {
        self.send(layout::TAG, step, || Entry::Layout(layout::encode(groups)));
    }

    /// Waits at most `limit` until the thread has tried to write all entries so far. Returns false if it has not
    /// finished by then.
    pub fn flush(&self, limit: Duration) -> bool {
        let Some(queue) = &self.queue else { return true };
        let (answer, answered) = sync_channel(1);
        queue.try_send(Message::Flush(answer)).is_ok() && answered.recv_timeout(limit).is_ok()
    }

    /// Returns the number of entries that were lost because the queue was full, or because the file could not be
    /// written and the memory for its pending entries was full.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Returns the number of failed attempts to write or to encode.
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
    /// Writes the remaining entries. Waits for this at most 5 seconds.
    fn drop(&mut self) {
        self.queue = None; // the thread ends when the sender is dropped
        if let Some(finished) = self.finished.take()
            && matches!(finished.recv_timeout(CLOSE_TIMEOUT), Err(RecvTimeoutError::Timeout))
        {
            tracing::warn!("TensorBoard: the last entries could not be written within {} s", CLOSE_TIMEOUT.as_secs());
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
        let mut next_flush = Instant::now(); // the first write reports an unusable folder early
        loop {
            let wait = next_flush.saturating_duration_since(Instant::now());
            match messages.recv_timeout(wait) {
                Ok(Message::Entry { wall_time, step, tag, content }) => self.add(wall_time, step, tag, content),
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

    fn add(&mut self, wall_time: f64, step: u64, tag: String, content: Entry) {
        match to_value(tag, content) {
            Ok(value) => {
                let content = Some(EventContent::Summary(Summary { value: vec![value] }));
                if !self.file.add(&Event { wall_time, step: to_i64(step), content }) {
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

fn to_value(tag: String, content: Entry) -> Result<Value, super::GridError> {
    let (content, metadata) = match content {
        Entry::Scalar(value) => (ValueContent::SimpleValue(value as f32), None),
        Entry::Image(grid) => {
            let encoded_image_string = grid.png()?;
            // The encoder returns an error for sizes that do not fit into 32 bits.
            let side = |pixels: usize| i32::try_from(pixels).unwrap_or(i32::MAX);
            let image = Image {
                height: side(grid.height),
                width: side(grid.width),
                colorspace: side(grid.channels),
                encoded_image_string,
            };
            (ValueContent::Image(image), None)
        }
        Entry::Text(markdown) => string(markdown.into_bytes(), "text"),
        Entry::Layout(layout) => string(layout, layout::PLUGIN),
        Entry::HParams(message) => {
            // The dashboard reads the metadata only, and takes any tensor.
            let shape = Some(Shape { dim: vec![Dim { size: 0 }] });
            let tensor = StringTensor { dtype: DT_FLOAT, shape, string_val: Vec::new() };
            (ValueContent::Tensor(tensor), Some(metadata_of(hparams::PLUGIN, message)))
        }
    };
    Ok(Value { tag, metadata, content: Some(content) })
}

/// Returns a string with the metadata of the dashboard that shows it.
fn string(text: Vec<u8>, plugin: &str) -> (ValueContent, Option<Metadata>) {
    let tensor = StringTensor { dtype: DT_STRING, shape: Some(Shape { dim: Vec::new() }), string_val: vec![text] };
    (ValueContent::Tensor(tensor), Some(metadata_of(plugin, Vec::new())))
}

fn metadata_of(plugin: &str, content: Vec<u8>) -> Metadata {
    let plugin_data = Some(PluginData { plugin_name: plugin.to_owned(), content });
    Metadata { plugin_data, data_class: DATA_CLASS_TENSOR }
}

fn to_i64(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}

/// Returns 0 if the clock is before 1970.
fn seconds_since_1970(now: SystemTime) -> f64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_is_off_discards_everything() {
        let off = TensorBoard::off();
        off.scalar("loss", 1, 0.5);
        assert!(off.flush(Duration::from_secs(1)));
        assert_eq!((off.dropped(), off.errors()), (0, 0));
    }

    #[test]
    fn entries_beyond_a_full_queue_are_dropped_and_counted() {
        let (queue, messages) = sync_channel(2);
        let full = TensorBoard { queue: Some(queue), finished: None, counts: Arc::default() };
        for step in 0..5 {
            full.scalar("loss", step, 0.5);
        }
        assert_eq!(full.dropped(), 3);
        drop(messages);
        full.scalar("loss", 5, 0.5);
        assert_eq!(full.dropped(), 4, "entries are also lost when the thread is gone");
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
