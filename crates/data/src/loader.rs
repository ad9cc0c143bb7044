//! Reads batches ahead of training, on threads of its own, and hands them over in order.
//!
//! What a sample is, the image, its crop and flip, its noise and its timestep, is a function of the seed and the
//! global sample index alone. Ranks, threads and timing decide who computes it and when.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use admiral_random::{Permutation, Philox, Stream};

use super::config::OnBrokenImage;
use super::crop::{Draws, square};
use super::error::DataError;
use super::source::ImageSource;

/// How many images in a row may be broken before the data set is.
const MOST_BROKEN_IN_A_ROW: u64 = 100;

/// What a sample is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SamplePlan {
    /// Seed of order, augmentation, timesteps and noise.
    pub seed: u64,
    /// Height and width of the samples.
    pub size: usize,
    /// Channels of the samples, 1 or 3.
    pub channels: usize,
    /// Random crop instead of the centre.
    pub random_crop: bool,
    /// Mirror every other image.
    pub random_flip: bool,
    /// What to do about an image that cannot be decoded.
    pub on_broken_image: OnBrokenImage,
}

/// Samples, ready for training.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The global index of each sample.
    pub indices: Vec<u64>,
    /// Images in [-1, 1], `[batch, channels, height, width]`.
    pub images: Vec<f32>,
    /// Standard normal noise of the images' shape.
    pub noise: Vec<f32>,
    /// A number in [0, 1) for each sample, from which its timestep follows.
    pub timestep_uniforms: Vec<f64>,
    /// The class of each sample; empty where the images have none.
    pub classes: Vec<i64>,
    /// Images that could not be decoded and were replaced.
    pub num_skipped: u64,
}

/// Makes samples of a source.
#[derive(Debug)]
pub struct SampleReader {
    source: Arc<dyn ImageSource>,
    plan: SamplePlan,
    reported: Mutex<HashSet<u64>>,
}

impl SampleReader {
    /// Reads `source` as `plan` says.
    #[must_use]
    pub fn new(source: Arc<dyn ImageSource>, plan: SamplePlan) -> Self {
        Self { source, plan, reported: Mutex::default() }
    }

    /// The samples with these global indices.
    ///
    /// # Errors
    /// When an image cannot be decoded and is not to be skipped, or too many cannot.
    pub fn read(&self, indices: Vec<u64>) -> Result<Batch, DataError> {
        let values = self.plan.channels * self.plan.size * self.plan.size;
        let mut batch = Batch {
            images: Vec::with_capacity(values * indices.len()),
            noise: vec![0.0; values * indices.len()],
            timestep_uniforms: Vec::with_capacity(indices.len()),
            classes: Vec::new(),
            num_skipped: 0,
            indices: Vec::new(),
        };
        for (&index, noise) in indices.iter().zip(batch.noise.chunks_exact_mut(values)) {
            let (item, skipped) = self.read_image(index, &mut batch.images)?;
            batch.num_skipped += skipped;
            batch.classes.extend(self.source.class(item));
            batch.timestep_uniforms.push(Philox::new(self.plan.seed, Stream::Timestep, index).uniform());
            Philox::new(self.plan.seed, Stream::Noise, index).fill_normal(noise);
        }
        batch.indices = indices;
        Ok(batch)
    }

    /// Appends the image of sample `index`; says which item it was and how many broken ones came before it.
    fn read_image(&self, index: u64, images: &mut Vec<f32>) -> Result<(u64, u64), DataError> {
        let num_images = self.source.num_images();
        let order = Permutation::new(self.plan.seed, index / num_images, num_images);
        let mut item = order.at(index % num_images);
        let mut replacements = Philox::new(self.plan.seed, Stream::Replacement, index);
        for attempt in 0..MOST_BROKEN_IN_A_ROW {
            match self.source.load(item) {
                Ok(picture) => {
                    let SamplePlan { seed, size, channels, random_crop, random_flip, .. } = self.plan;
                    let draws = Draws::new(seed, index, size, random_crop, random_flip);
                    let picture = picture.with_channels(channels);
                    let picture = if self.source.is_padded() { picture.pad_to(size) } else { picture };
                    let picture = square(&picture, size, &draws);
                    picture.append_planes(images);
                    return Ok((item, attempt));
                }
                Err(error) if self.plan.on_broken_image == OnBrokenImage::Stop => return Err(error),
                Err(error) => {
                    if lock(&self.reported).insert(item) {
                        tracing::warn!("skipping an image: {error}");
                    }
                    if let (DataError::Broken { path, reason }, true) = (error, attempt + 1 == MOST_BROKEN_IN_A_ROW) {
                        return Err(DataError::AllBroken { attempts: MOST_BROKEN_IN_A_ROW, path, reason });
                    }
                    item = replacements.below(num_images);
                }
            }
        }
        Err(DataError::Ended("no image could be read".into()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Passes = Box<dyn Iterator<Item = Vec<u64>> + Send>;

struct Queue {
    passes: Passes,
    /// The number of the next batch that a thread takes.
    next_taken: u64,
    /// The number of the next batch that is handed over.
    next_given: u64,
    ready: BTreeMap<u64, Result<Batch, DataError>>,
    /// How many batches there are, once the passes have ended.
    end: Option<u64>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    prefetch: u64,
}

/// Batches in order, read ahead by threads.
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Loader").field("num_threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Loader {
    /// Starts `num_workers` threads that read the batches whose sample indices `passes` gives, at most `prefetch` of
    /// them ahead of the one that is asked for.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        reader: SampleReader,
        num_workers: usize,
        prefetch: usize,
        passes: impl Iterator<Item = Vec<u64>> + Send + 'static,
    ) -> Result<Self, DataError> {
        let queue = Queue {
            passes: Box::new(passes),
            next_taken: 0,
            next_given: 0,
            ready: BTreeMap::new(),
            end: None,
            closed: false,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            prefetch: prefetch.max(num_workers) as u64,
        });
        let reader = Arc::new(reader);
        let mut loader = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        for number in 0..num_workers {
            let (shared, reader) = (Arc::clone(&shared), Arc::clone(&reader));
            let thread =
                std::thread::Builder::new().name(format!("data-{number}")).spawn(move || work(&shared, &reader));
            loader.threads.push(thread.map_err(|error| DataError::Ended(error.to_string()))?);
        }
        Ok(loader)
    }

    /// The next batch and how long it was waited for; `None` after the last.
    ///
    /// # Errors
    /// When the batch could not be read.
    #[allow(clippy::should_implement_trait, reason = "after an error the next batch can still be asked for")]
    pub fn next(&mut self) -> Result<Option<(Batch, Duration)>, DataError> {
        let start = Instant::now();
        let mut queue = lock(&self.shared.queue);
        loop {
            let number = queue.next_given;
            if let Some(batch) = queue.ready.remove(&number) {
                queue.next_given += 1;
                drop(queue);
                self.shared.changed.notify_all();
                return batch.map(|batch| Some((batch, start.elapsed())));
            }
            if queue.end.is_some_and(|end| number >= end) {
                return Ok(None);
            }
            // A thread ends before the passes do only by a panic, and takes its batch with it.
            let mut finished = self.threads.iter().map(JoinHandle::is_finished);
            if if queue.end.is_none() { finished.any(|is| is) } else { finished.all(|is| is) } {
                return Err(DataError::Ended("a thread that reads images has died".into()));
            }
            // The limit only matters where a thread died: then nobody notifies.
            let limit = Duration::from_secs(1);
            queue = self.shared.changed.wait_timeout(queue, limit).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that died has said so already.
            let _ = thread.join();
        }
    }
}

fn work(shared: &Shared, reader: &SampleReader) {
    loop {
        let (number, indices) = {
            let mut queue = lock(&shared.queue);
            while !queue.closed && queue.end.is_none() && queue.next_taken >= queue.next_given + shared.prefetch {
                queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if queue.closed || queue.end.is_some() {
                return;
            }
            let Some(indices) = queue.passes.next() else {
                queue.end = Some(queue.next_taken);
                drop(queue);
                shared.changed.notify_all();
                return;
            };
            queue.next_taken += 1;
            (queue.next_taken - 1, indices)
        };
        let batch = reader.read(indices);
        lock(&shared.queue).ready.insert(number, batch);
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::pixels::Pixels;

    /// Image i is 4x4 pixels of value i; every one in `broken` cannot be read.
    #[derive(Debug)]
    struct Numbers {
        count: u64,
        broken: Vec<u64>,
    }

    impl ImageSource for Numbers {
        fn num_images(&self) -> u64 {
            self.count
        }
        fn num_classes(&self) -> usize {
            self.count as usize
        }
        fn name(&self, item: u64) -> String {
            format!("image {item}")
        }
        fn class(&self, item: u64) -> Option<i64> {
            Some(item as i64)
        }
        fn load(&self, item: u64) -> Result<Pixels, DataError> {
            if self.broken.contains(&item) {
                return Err(DataError::Broken { path: self.name(item), reason: "torn".into() });
            }
            Ok(Pixels { width: 4, height: 4, channels: 1, bytes: vec![item as u8; 16] })
        }
    }

    fn reader(broken: &[u64], on_broken_image: OnBrokenImage) -> SampleReader {
        let plan = SamplePlan { seed: 3, size: 4, channels: 1, random_crop: true, random_flip: true, on_broken_image };
        SampleReader::new(Arc::new(Numbers { count: 10, broken: broken.to_vec() }), plan)
    }

    fn run(num_workers: usize, batch: u64) -> Vec<Batch> {
        let passes = (0..40 / batch).map(move |pass| (pass * batch..(pass + 1) * batch).collect());
        let mut loader = Loader::start(reader(&[], OnBrokenImage::Stop), num_workers, 2, passes).unwrap();
        std::iter::from_fn(|| loader.next().unwrap()).map(|(batch, _)| batch).collect()
    }

    #[test]
    fn samples_do_not_depend_on_threads_or_batches() {
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
        // Every epoch visits every image once.
        for epoch in one.4.chunks(10) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            assert_eq!(epoch, (0..10).collect::<Vec<i64>>());
        }
    }

    #[test]
    fn a_broken_image_stops_or_is_replaced_and_counted() {
        let indices: Vec<u64> = (0..10).collect();
        let error = reader(&[4], OnBrokenImage::Stop).read(indices.clone()).unwrap_err();
        assert!(error.to_string().contains("image 4") && error.to_string().contains("torn"), "{error}");
        let batch = reader(&[4], OnBrokenImage::Skip).read(indices.clone()).unwrap();
        assert!(batch.num_skipped >= 1 && batch.classes.len() == 10 && !batch.classes.contains(&4));
        assert_eq!(batch, reader(&[4], OnBrokenImage::Skip).read(indices.clone()).unwrap());
        let all: Vec<u64> = (0..10).collect();
        assert!(matches!(reader(&all, OnBrokenImage::Skip).read(indices), Err(DataError::AllBroken { .. })));
    }

    #[test]
    fn dropping_a_loader_in_the_middle_ends_its_threads() {
        let passes = (0..).map(|pass| vec![pass]);
        let mut loader = Loader::start(reader(&[], OnBrokenImage::Stop), 3, 4, passes).unwrap();
        loader.next().unwrap();
        drop(loader);
    }

    #[test]
    fn an_error_arrives_in_order() {
        let passes = (0..10).map(|pass| vec![pass]);
        let mut loader = Loader::start(reader(&[4], OnBrokenImage::Stop), 2, 4, passes).unwrap();
        let results: Vec<bool> = (0..10).map(|_| loader.next().is_ok()).collect();
        assert_eq!(results.iter().filter(|good| !**good).count(), 1);
    }

    /// Reading its image ends the thread.
    #[derive(Debug)]
    struct Deadly;

    impl ImageSource for Deadly {
        fn num_images(&self) -> u64 {
            1
        }
        fn num_classes(&self) -> usize {
            0
        }
        fn name(&self, _: u64) -> String {
            "deadly".into()
        }
        fn class(&self, _: u64) -> Option<i64> {
            None
        }
        fn load(&self, _: u64) -> Result<Pixels, DataError> {
            panic!("meant")
        }
    }

    #[test]
    fn a_dead_thread_is_an_error_and_no_wait_for_ever() {
        let plan = reader(&[], OnBrokenImage::Stop).plan;
        // One thread dies; the other waits for room.
        let passes = std::iter::once(vec![0]).chain(std::iter::repeat(vec![]));
        let mut loader = Loader::start(SampleReader::new(Arc::new(Deadly), plan), 2, 4, passes).unwrap();
        assert!(matches!(loader.next(), Err(DataError::Ended(_))));
    }

    /// A 2x2 picture, padded or not.
    #[derive(Debug)]
    struct Small {
        is_padded: bool,
    }

    impl ImageSource for Small {
        fn num_images(&self) -> u64 {
            1
        }
        fn num_classes(&self) -> usize {
            0
        }
        fn name(&self, _: u64) -> String {
            "small".into()
        }
        fn class(&self, _: u64) -> Option<i64> {
            None
        }
        fn is_padded(&self) -> bool {
            self.is_padded
        }
        fn load(&self, _: u64) -> Result<Pixels, DataError> {
            Ok(Pixels { width: 2, height: 2, channels: 1, bytes: vec![255; 4] })
        }
    }

    #[test]
    fn small_pictures_are_enlarged_and_small_digits_get_a_border() {
        let plan = SamplePlan { random_crop: false, ..reader(&[], OnBrokenImage::Stop).plan };
        let sum = |is_padded| {
            let reader = SampleReader::new(Arc::new(Small { is_padded }), plan.clone());
            reader.read(vec![0]).unwrap().images.iter().sum::<f32>()
        };
        assert_eq!((sum(false), sum(true)), (16.0, 4.0 - 12.0));
    }
}
