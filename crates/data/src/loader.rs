//! Reads batches ahead of training on threads, and returns them in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::buffers::Buffers;
use super::error::DataError;
use super::sample::{Batch, SampleReader, lock};

/// The global sample indices of each batch.
type BatchIndices = Box<dyn Iterator<Item = Vec<u64>> + Send>;

/// The batches to read and the batches that are read.
struct Queue {
    indices: BatchIndices,
    /// The number of the next batch that a thread starts to read.
    next_to_read: u64,
    /// The number of the next batch that [`Loader::next`] returns.
    next_to_return: u64,
    /// The batches that are read and not returned, by number.
    ready: BTreeMap<u64, Result<Batch, DataError>>,
    /// Batches whose memory the threads use again.
    used: Vec<Batch>,
    /// The number of all batches. `None` until the indices have ended.
    num_batches: Option<u64>,
    /// Set when the loader is dropped. The threads then end.
    closed: bool,
}

/// The state that the threads share.
struct Shared {
    queue: Mutex<Queue>,
    /// Notified after each change of the queue.
    changed: Condvar,
    /// The number of batches that threads may read ahead.
    prefetch: u64,
}

/// Reads batches ahead on threads, and returns them in order.
pub struct Loader {
    shared: Arc<Shared>,
    reader: Arc<SampleReader>,
    threads: Vec<JoinHandle<()>>,
    is_cancelled: Box<dyn Fn() -> bool + Send>,
    /// Takes the name of the image that has been read for the longest time, while a call of `next` waits for long.
    tell_awaited: Box<dyn Fn(&str) + Send>,
    /// The longest time that a call of `next` waited for its batch.
    longest_wait: Duration,
}

/// How long a call of [`Loader::next`] goes on waiting after a cancellation, beyond the longest wait so far.
const CANCEL_GRACE: Duration = Duration::from_millis(1500);

/// The most that slow batches add to that.
const MAX_GRACE: Duration = Duration::from_secs(10);

/// How long a call of [`Loader::next`] waits before it tells which image it waits for.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// How long a call of [`Loader::next`] waits before it logs which image it waits for, and then between two such messages.
const MESSAGE_EVERY: Duration = Duration::from_secs(30);

/// How long a dropped loader waits for its threads.
const DROP_GRACE: Duration = Duration::from_millis(500);

impl std::fmt::Debug for Loader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Loader").field("num_threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Loader {
    /// Starts `num_workers` threads. `indices` gives the global sample indices of each batch. The threads read at most
    /// `prefetch` batches ahead of the next one that is returned, or `num_workers` batches if that is more.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(
        reader: SampleReader,
        num_workers: usize,
        prefetch: usize,
        indices: impl Iterator<Item = Vec<u64>> + Send + 'static,
    ) -> Result<Self, DataError> {
        let queue = Queue {
            indices: Box::new(indices),
            next_to_read: 0,
            next_to_return: 0,
            ready: BTreeMap::new(),
            used: Vec::new(),
            num_batches: None,
            closed: false,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            prefetch: prefetch.max(num_workers) as u64,
        });
        let reader = Arc::new(reader);
        let mut loader = Self {
            shared: Arc::clone(&shared),
            reader: Arc::clone(&reader),
            threads: Vec::new(),
            is_cancelled: Box::new(|| false),
            tell_awaited: Box::new(|_| ()),
            longest_wait: Duration::ZERO,
        };
        for number in 0..num_workers {
            let (shared, reader) = (Arc::clone(&shared), Arc::clone(&reader));
            let thread = std::thread::Builder::new()
                .name(format!("data-{number}"))
                .spawn(move || read_batches(&shared, &reader));
            loader.threads.push(thread.map_err(|error| DataError::Ended(error.to_string()))?);
        }
        Ok(loader)
    }

    /// Makes [`next`](Self::next) give up soon after `is_cancelled` returns true. Otherwise a file system that hangs would
    /// keep the caller from ending.
    pub fn give_up_when(&mut self, is_cancelled: impl Fn() -> bool + Send + 'static) {
        self.is_cancelled = Box::new(is_cancelled);
    }

    /// Makes [`next`](Self::next) call `tell` while it waits for more than a second, with the name of the image that has been
    /// read for the longest time. An empty name tells that no image is read, or that the wait is over.
    pub fn tell_awaited(&mut self, tell: impl Fn(&str) + Send + 'static) {
        self.tell_awaited = Box::new(tell);
    }

    /// Keeps a batch that is no longer needed, whose memory a next batch uses.
    pub fn keep(&self, batch: Batch) {
        let mut queue = lock(&self.shared.queue);
        if queue.used.len() < self.threads.len() {
            queue.used.push(batch);
        }
    }

    /// Returns the next batch and the time that this call waited for it. Returns `None` after the last batch.
    ///
    /// # Errors
    /// If the batch could not be read: the next call then returns the following batch. [`DataError::Ended`] if a thread
    /// has panicked. [`DataError::Cancelled`] if the batch does not come soon after a
    /// [cancellation](Self::give_up_when).
    #[allow(clippy::should_implement_trait, reason = "the next batch can be read after an error")]
    pub fn next(&mut self) -> Result<Option<(Batch, Duration)>, DataError> {
        let start = Instant::now();
        let mut cancelled_at = None;
        let mut next_message = MESSAGE_EVERY;
        let mut awaited = String::new();
        let mut queue = lock(&self.shared.queue);
        loop {
            let number = queue.next_to_return;
            if let Some(batch) = queue.ready.remove(&number) {
                queue.next_to_return += 1;
                drop(queue);
                self.shared.changed.notify_all();
                self.longest_wait = self.longest_wait.max(start.elapsed()).min(MAX_GRACE);
                if !awaited.is_empty() {
                    (self.tell_awaited)("");
                }
                return batch.map(|batch| Some((batch, start.elapsed())));
            }
            if queue.num_batches.is_some_and(|num| number >= num) {
                return Ok(None);
            }
            // Before the indices end, a thread ends only by a panic, and its batch is lost. Afterwards, threads also
            // end normally, and a batch is lost only if all threads have ended without it.
            let mut finished = self.threads.iter().map(JoinHandle::is_finished);
            let is_lost = if queue.num_batches.is_none() { finished.any(|is| is) } else { finished.all(|is| is) };
            if is_lost {
                return Err(DataError::Ended("a thread that reads images has died".into()));
            }
            if (self.is_cancelled)() {
                let since = *cancelled_at.get_or_insert_with(Instant::now);
                if since.elapsed() > CANCEL_GRACE + self.longest_wait {
                    return Err(DataError::Cancelled);
                }
            }
            if start.elapsed() >= TELL_AFTER {
                let slowest = self.reader.slowest();
                let name = slowest.as_ref().map_or("", |(name, _)| name.as_str());
                if name != awaited {
                    (self.tell_awaited)(name);
                    awaited = name.to_owned();
                }
                if start.elapsed() >= next_message {
                    next_message += MESSAGE_EVERY;
                    let slowest = slowest.map(|(name, time)| format!("; {name} since {} s", time.as_secs()));
                    let slowest = slowest.unwrap_or_default();
                    tracing::warn!("waiting for images for {} s{slowest}", start.elapsed().as_secs());
                }
            }
            // Look again soon: neither a thread that panics nor a cancellation notifies.
            let timeout = Duration::from_millis(100);
            queue = self.shared.changed.wait_timeout(queue, timeout).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.changed.notify_all();
        // A thread may hang in a read. It is left behind then, and ends with the process.
        let end = Instant::now() + DROP_GRACE;
        while Instant::now() < end && !self.threads.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(5));
        }
        for thread in self.threads.drain(..).filter(JoinHandle::is_finished) {
            // The panic hook has already reported a panic of the thread.
            let _ = thread.join();
        }
    }
}

/// Reads batches until there are no more, or the loader is dropped.
fn read_batches(shared: &Shared, reader: &SampleReader) {
    let mut buffers = Buffers::default();
    loop {
        let (number, indices, used) = {
            let mut queue = lock(&shared.queue);
            while !queue.closed
                && queue.num_batches.is_none()
                && queue.next_to_read >= queue.next_to_return + shared.prefetch
            {
                queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if queue.closed || queue.num_batches.is_some() {
                return;
            }
            let Some(indices) = queue.indices.next() else {
                queue.num_batches = Some(queue.next_to_read);
                drop(queue);
                shared.changed.notify_all();
                return;
            };
            queue.next_to_read += 1;
            (queue.next_to_read - 1, indices, queue.used.pop())
        };
        if let Some(Batch { images, noise, .. }) = used {
            buffers.keep_numbers(images);
            buffers.keep_numbers(noise);
        }
        let batch = reader.read(indices, &mut buffers);
        lock(&shared.queue).ready.insert(number, batch);
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use admiral_containers::Fetched;

    use super::*;
    use crate::config::OnBrokenImage;
    use crate::pixels::Pixels;
    use crate::source::ImageSource;
    use crate::test_source::{reader, spec};

    fn run(num_workers: usize, batch: u64) -> Vec<Batch> {
        let indices = (0..40 / batch).map(move |number| (number * batch..(number + 1) * batch).collect());
        let mut loader = Loader::start(reader(&[], OnBrokenImage::Stop), num_workers, 2, indices).unwrap();
        std::iter::from_fn(|| loader.next().unwrap()).map(|(batch, _)| batch).collect()
    }

    #[test]
    fn samples_are_the_same_in_memory_that_is_used_again() {
        let indices = || (0..10).map(|number| (number * 4..(number + 1) * 4).collect());
        let mut loader = Loader::start(reader(&[], OnBrokenImage::Stop), 1, 1, indices()).unwrap();
        for expected in run(1, 4) {
            let (batch, _) = loader.next().unwrap().unwrap();
            assert_eq!(batch, expected);
            // More than the threads can use is not kept.
            loader.keep(batch.clone());
            loader.keep(batch);
            assert!(lock(&loader.shared.queue).used.len() <= 1);
        }
    }

    #[test]
    fn samples_do_not_depend_on_threads_or_batch_size() {
        let flat = |batches: Vec<Batch>| {
            let mut all = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for batch in batches {
                all.0.extend(batch.indices);
                all.1.extend(batch.images);
                all.2.extend(batch.noise);
                all.3.extend(batch.timestep_uniforms);
                all.4.extend(batch.classes);
            }
            all
        };
        let one = flat(run(1, 4));
        assert_eq!(one.0, (0..40).collect::<Vec<u64>>());
        assert_eq!(one, flat(run(3, 4)));
        assert_eq!(one, flat(run(2, 10)));
        // Each epoch visits every image once.
        for epoch in one.4.chunks(10) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            assert_eq!(epoch, (0..10).collect::<Vec<i64>>());
        }
    }

    #[test]
    fn dropping_a_loader_before_the_end_ends_its_threads() {
        let indices = (0..).map(|index| vec![index]);
        let mut loader = Loader::start(reader(&[], OnBrokenImage::Stop), 3, 4, indices).unwrap();
        loader.next().unwrap();
        drop(loader);
    }

    #[test]
    fn an_error_takes_the_place_of_its_batch() {
        let indices = (0..10).map(|index| vec![index]);
        let mut loader = Loader::start(reader(&[4], OnBrokenImage::Stop), 2, 4, indices).unwrap();
        let results: Vec<bool> = (0..10).map(|_| loader.next().is_ok()).collect();
        assert_eq!(results.iter().filter(|good| !**good).count(), 1);
    }

    /// A source that panics outside of the decoding of an image.
    #[derive(Debug)]
    struct Panicking;

    impl ImageSource for Panicking {
        fn num_images(&self) -> u64 {
            1
        }
        fn num_classes(&self) -> usize {
            0
        }
        fn digest(&self) -> [u8; 32] {
            [0; 32]
        }
        fn stamp(&self) -> Result<[u8; 32], DataError> {
            Ok(self.digest())
        }
        fn name(&self, _: u64) -> String {
            "panicking".into()
        }
        fn entry(&self, item: u64) -> String {
            self.name(item)
        }
        fn class(&self, _: u64) -> Option<i64> {
            panic!("a panic of the test")
        }
        fn fetch(&self, _: u64) -> Result<Fetched, DataError> {
            Ok(Pixels { width: 4, height: 4, channels: 1, bytes: vec![0; 16] }.into())
        }
    }

    #[test]
    fn a_panic_of_a_thread_is_an_error() {
        let spec = spec(OnBrokenImage::Stop);
        // One thread panics, the other waits until it may read ahead.
        let indices = std::iter::once(vec![0]).chain(std::iter::repeat(vec![]));
        let mut loader = Loader::start(SampleReader::new(Arc::new(Panicking), spec), 2, 4, indices).unwrap();
        assert!(matches!(loader.next(), Err(DataError::Ended(_))));
    }

    /// A source whose second image takes a minute, as on a file system that hangs.
    #[derive(Debug)]
    struct Hanging;

    impl ImageSource for Hanging {
        fn num_images(&self) -> u64 {
            2
        }
        fn num_classes(&self) -> usize {
            0
        }
        fn digest(&self) -> [u8; 32] {
            [0; 32]
        }
        fn stamp(&self) -> Result<[u8; 32], DataError> {
            Ok(self.digest())
        }
        fn name(&self, _: u64) -> String {
            "hanging".into()
        }
        fn entry(&self, item: u64) -> String {
            self.name(item)
        }
        fn class(&self, item: u64) -> Option<i64> {
            if item == 1 {
                std::thread::sleep(Duration::from_secs(60));
            }
            None
        }
        fn fetch(&self, _: u64) -> Result<Fetched, DataError> {
            Ok(Pixels { width: 4, height: 4, channels: 1, bytes: vec![0; 16] }.into())
        }
    }

    #[test]
    fn a_cancelled_loader_waits_for_no_file_system() {
        let spec = spec(OnBrokenImage::Stop);
        let indices = (0..4).map(|index| vec![index]);
        let mut loader = Loader::start(SampleReader::new(Arc::new(Hanging), spec), 1, 1, indices).unwrap();
        loader.give_up_when(|| true);
        let start = Instant::now();
        let is_cancelled =
            std::iter::from_fn(|| loader.next().transpose()).any(|next| next == Err(DataError::Cancelled));
        assert!(is_cancelled);
        drop(loader);
        // Far from a minute. How soon a run ends is measured elsewhere.
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
