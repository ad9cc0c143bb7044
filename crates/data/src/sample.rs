//! Makes training samples from images.
//!
//! A sample consists of an image, its crop and flip, its noise and its timestep. It is a function of the seed and the
//! global sample index. It does not depend on the rank, the thread or the time at which it is made.

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use admiral_random::{Permutation, Philox, Stream};

use super::broken::BrokenImage;
use super::buffers::Buffers;
use super::config::OnBrokenImage;
use super::crop::{Draws, square};
use super::decoding::Decoding;
use super::error::DataError;
use super::jpeg::panic_text;
use super::limits::refusal_of_scale;
use super::pixels::Pixels;
use super::source::ImageSource;

/// The number of broken images in a row after which reading fails.
const MAX_BROKEN_IN_A_ROW: u64 = 100;

/// The settings that, with the source, determine every sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleSpec {
    /// The seed of the order, the augmentation, the timesteps and the noise.
    pub seed: u64,
    /// The height and the width of the samples in pixels.
    pub size: usize,
    /// The number of channels of the samples, 1 or 3.
    pub channels: usize,
    /// Whether images are cropped at random instead of at the center.
    pub random_crop: bool,
    /// Whether images are mirrored with probability 1/2.
    pub random_flip: bool,
    /// How JPEG files are decoded.
    pub decode: Decoding,
    /// The reaction to an image that cannot be decoded.
    pub on_broken_image: OnBrokenImage,
}

/// A batch of samples for training.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The global index of each sample.
    pub indices: Vec<u64>,
    /// Images in [-1, 1], `[batch, channels, height, width]`.
    pub images: Vec<f32>,
    /// Standard normal noise, in the shape of the images.
    pub noise: Vec<f32>,
    /// A uniform number in [0, 1) per sample, which determines its timestep.
    pub timestep_uniforms: Vec<f64>,
    /// The class of each sample. Empty if the images have no classes.
    pub classes: Vec<i64>,
    /// The number of images that could not be decoded and were replaced.
    pub num_skipped: u64,
    /// Those of them that this reader met for the first time, if broken images are listed.
    pub broken: Vec<BrokenImage>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads samples from a source of images.
#[derive(Debug)]
pub struct SampleReader {
    source: Arc<dyn ImageSource>,
    spec: SampleSpec,
    /// The broken images that are already logged.
    reported: Mutex<HashSet<u64>>,
    /// The images that threads are reading, by the index of the sample, and since when.
    reading: Mutex<BTreeMap<u64, (u64, Instant)>>,
}

impl SampleReader {
    /// Returns a reader of `source`.
    #[must_use]
    pub fn new(source: Arc<dyn ImageSource>, spec: SampleSpec) -> Self {
        Self { source, spec, reported: Mutex::default(), reading: Mutex::default() }
    }

    /// Returns the samples with these global indices. Memory of images comes from `buffers`, which a thread keeps for its
    /// next batches.
    ///
    /// # Errors
    /// If an image cannot be decoded and the setting is to stop, or if 100 images in a row cannot be decoded.
    pub fn read(&self, indices: Vec<u64>, buffers: &mut Buffers) -> Result<Batch, DataError> {
        let values = self.spec.channels * self.spec.size * self.spec.size;
        let mut batch = Batch {
            images: buffers.take_numbers(values * indices.len()),
            noise: Vec::new(),
            timestep_uniforms: Vec::with_capacity(indices.len()),
            classes: Vec::new(),
            num_skipped: 0,
            broken: Vec::new(),
            indices: Vec::new(),
        };
        let mut noise = buffers.take_numbers(values * indices.len());
        noise.resize(values * indices.len(), 0.0);
        for (&index, noise) in indices.iter().zip(noise.chunks_exact_mut(values)) {
            let item = self.read_image(index, &mut batch, buffers)?;
            batch.classes.extend(self.source.class(item));
            batch.timestep_uniforms.push(Philox::new(self.spec.seed, Stream::Timestep, index).uniform());
            Philox::new(self.spec.seed, Stream::Noise, index).fill_normal(noise);
        }
        batch.indices = indices;
        batch.noise = noise;
        Ok(batch)
    }

    /// Returns the name of the image that a thread has been reading for the longest time, and that time.
    pub fn slowest(&self) -> Option<(String, Duration)> {
        let (item, since) = lock(&self.reading).values().min_by_key(|(_, since)| *since).copied()?;
        Some((self.source.name(item), since.elapsed()))
    }

    /// Appends the image of the sample `index` to a batch, and counts the broken images that it replaces. Returns its item
    /// in the source.
    fn read_image(&self, index: u64, batch: &mut Batch, buffers: &mut Buffers) -> Result<u64, DataError> {
        let num_images = self.source.num_images();
        let order = Permutation::new(self.spec.seed, index / num_images, num_images);
        let mut item = order.at(index % num_images);
        let mut replacements = Philox::new(self.spec.seed, Stream::Replacement, index);
        for attempt in 0..MAX_BROKEN_IN_A_ROW {
            lock(&self.reading).insert(index, (item, Instant::now()));
            let loaded = self.load_square(item, index, buffers);
            lock(&self.reading).remove(&index);
            match loaded {
                Ok(image) => {
                    image.append_planes(&mut batch.images);
                    buffers.keep(image);
                    return Ok(item);
                }
                // Another image must not stand in for one that is whole.
                Err(error) if error.may_pass() => return Err(error),
                Err(error) if self.spec.on_broken_image == OnBrokenImage::Stop => return Err(error),
                Err(error) => {
                    batch.num_skipped += 1;
                    if lock(&self.reported).insert(item) {
                        tracing::warn!("skipping an image: {error}");
                        if self.spec.on_broken_image == OnBrokenImage::Quarantine {
                            batch.broken.push(BrokenImage::of(&*self.source, item, error.to_string()));
                        }
                    }
                    if let (DataError::Broken { path, reason }, true) = (error, attempt + 1 == MAX_BROKEN_IN_A_ROW) {
                        return Err(DataError::AllBroken { attempts: MAX_BROKEN_IN_A_ROW, path, reason });
                    }
                    item = replacements.below(num_images);
                }
            }
        }
        Err(DataError::Ended("no image could be read".into()))
    }

    /// Returns the image of the sample `index`, made from `item`.
    fn load_square(&self, item: u64, index: u64, buffers: &mut Buffers) -> Result<Pixels, DataError> {
        let SampleSpec { seed, size, channels, random_crop, random_flip, decode, .. } = self.spec;
        let draws = Draws::new(seed, index, size, random_crop, random_flip);
        square_of(&*self.source, item, size, channels, &draws, decode, buffers)
    }
}

/// Returns image `item` of a source with `channels` channels, resized and cropped to `size` x `size` pixels. A panic of a
/// decoder is an error of the image.
///
/// # Errors
/// If the image cannot be read or decoded.
pub fn load_square(
    source: &dyn ImageSource,
    item: u64,
    size: usize,
    channels: usize,
    draws: &Draws,
) -> Result<Pixels, DataError> {
    square_of(source, item, size, channels, draws, Decoding::Exact, &mut Buffers::default())
}

fn square_of(
    source: &dyn ImageSource,
    item: u64,
    size: usize,
    channels: usize,
    draws: &Draws,
    decoding: Decoding,
    buffers: &mut Buffers,
) -> Result<Pixels, DataError> {
    guarded(source, item, || {
        let length = draws.short_side(size);
        let image = source.load_for(item, length, decoding, buffers)?.with_channels(channels);
        let image = if source.is_padded() { image.pad_to(size) } else { image };
        match refusal_of_scale(image.width, image.height, length) {
            Some(reason) => Err(DataError::Broken { path: source.name(item), reason }),
            None => {
                let square = square(&image, size, draws, buffers);
                buffers.keep(image);
                Ok(square)
            }
        }
    })
}

/// Returns image `item` of a source with `channels` channels, in its stored size. A panic of a decoder is an error of the
/// image.
///
/// # Errors
/// If the image cannot be read or decoded.
pub fn load_whole(source: &dyn ImageSource, item: u64, channels: usize) -> Result<Pixels, DataError> {
    guarded(source, item, || Ok(source.load(item)?.with_channels(channels)))
}

/// Returns what `load` returns. A panic is an error of the image.
pub(crate) fn guarded(
    source: &dyn ImageSource,
    item: u64,
    load: impl FnOnce() -> Result<Pixels, DataError>,
) -> Result<Pixels, DataError> {
    let broken = |reason| DataError::Broken { path: source.name(item), reason };
    catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|panic| Err(broken(panic_text(&*panic))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use admiral_containers::Fetched;

    use super::*;
    use crate::test_source::{reader, spec};

    #[test]
    fn quarantined_images_are_described_once() {
        let indices: Vec<u64> = (0..10).collect();
        let reader = reader(&[4], OnBrokenImage::Quarantine);
        let first = reader.read(indices.clone(), &mut Buffers::default()).unwrap();
        assert_eq!(first.num_skipped, reader.read(indices.clone(), &mut Buffers::default()).unwrap().num_skipped);
        let [broken] = &first.broken[..] else { panic!("{:?}", first.broken) };
        assert_eq!((broken.image.as_str(), &broken.sha256), ("image 4", &None));
        assert!(broken.reason.contains("damaged"), "{broken:?}");
        assert_eq!(reader.read((10..20).collect(), &mut Buffers::default()).unwrap().broken, []);
    }

    #[test]
    fn broken_images_are_errors_or_are_replaced_and_counted() {
        let indices: Vec<u64> = (0..10).collect();
        let error = reader(&[4], OnBrokenImage::Stop).read(indices.clone(), &mut Buffers::default()).unwrap_err();
        assert!(error.to_string().contains("image 4") && error.to_string().contains("damaged"), "{error}");
        let batch = reader(&[4], OnBrokenImage::Skip).read(indices.clone(), &mut Buffers::default()).unwrap();
        assert!(batch.num_skipped >= 1 && batch.classes.len() == 10 && !batch.classes.contains(&4));
        assert_eq!(batch, reader(&[4], OnBrokenImage::Skip).read(indices.clone(), &mut Buffers::default()).unwrap());
        let all: Vec<u64> = (0..10).collect();
        assert!(matches!(
            reader(&all, OnBrokenImage::Skip).read(indices, &mut Buffers::default()),
            Err(DataError::AllBroken { .. })
        ));
    }

    /// A source of one image of 2 x 2 pixels.
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
        fn digest(&self) -> [u8; 32] {
            [0; 32]
        }
        fn stamp(&self) -> Result<[u8; 32], DataError> {
            Ok(self.digest())
        }
        fn name(&self, _: u64) -> String {
            "small".into()
        }
        fn entry(&self, item: u64) -> String {
            self.name(item)
        }
        fn class(&self, _: u64) -> Option<i64> {
            None
        }
        fn is_padded(&self) -> bool {
            self.is_padded
        }
        fn fetch(&self, _: u64) -> Result<Fetched, DataError> {
            Ok(Pixels { width: 2, height: 2, channels: 1, bytes: vec![255; 4] }.into())
        }
    }

    #[test]
    fn small_images_are_enlarged_or_padded() {
        let spec = SampleSpec { random_crop: false, ..spec(OnBrokenImage::Stop) };
        let sum = |is_padded| {
            let reader = SampleReader::new(Arc::new(Small { is_padded }), spec.clone());
            reader.read(vec![0], &mut Buffers::default()).unwrap().images.iter().sum::<f32>()
        };
        assert_eq!((sum(false), sum(true)), (16.0, 4.0 - 12.0));
    }

    /// A source of one image that cannot be used in some way.
    #[derive(Debug)]
    enum Unusable {
        Panics,
        Narrow,
        Unavailable,
    }

    impl ImageSource for Unusable {
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
            "unusable".into()
        }
        fn entry(&self, item: u64) -> String {
            self.name(item)
        }
        fn class(&self, _: u64) -> Option<i64> {
            None
        }
        fn fetch(&self, item: u64) -> Result<Fetched, DataError> {
            match self {
                Self::Panics => panic!("a panic of the test"),
                Self::Narrow => {
                    Ok(Pixels { width: 1, height: 12_000_000, channels: 1, bytes: vec![0; 12_000_000] }.into())
                }
                Self::Unavailable => Err(DataError::Unavailable { path: self.name(item), reason: "stale".into() }),
            }
        }
    }

    #[test]
    fn a_panic_and_a_narrow_image_are_broken_images_and_a_failing_file_system_is_not() {
        let read = |source, on_broken_image| {
            SampleReader::new(Arc::new(source), spec(on_broken_image))
                .read(vec![0], &mut Buffers::default())
                .unwrap_err()
        };
        for (source, word) in [(Unusable::Panics, "a panic of the test"), (Unusable::Narrow, "too narrow")] {
            let error = read(source, OnBrokenImage::Stop);
            assert!(matches!(&error, DataError::Broken { reason, .. } if reason.contains(word)), "{error}");
        }
        assert!(matches!(read(Unusable::Panics, OnBrokenImage::Skip), DataError::AllBroken { .. }));
        for on_broken_image in [OnBrokenImage::Stop, OnBrokenImage::Skip] {
            assert!(matches!(read(Unusable::Unavailable, on_broken_image), DataError::Unavailable { .. }));
        }
    }
}
