//! A source of images for tests.

use std::sync::Arc;

use admiral_containers::Fetched;

use super::config::OnBrokenImage;
use super::decoding::Decoding;
use super::error::DataError;
use super::pixels::Pixels;
use super::sample::{SampleReader, SampleSpec};
use super::source::ImageSource;

/// A source whose image i has 4 x 4 pixels of value i. The images in `broken` cannot be read.
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
    fn digest(&self) -> [u8; 32] {
        [0; 32]
    }
    fn stamp(&self) -> Result<[u8; 32], DataError> {
        Ok(self.digest())
    }
    fn name(&self, item: u64) -> String {
        format!("image {item}")
    }
    fn entry(&self, item: u64) -> String {
        self.name(item)
    }
    fn class(&self, item: u64) -> Option<i64> {
        Some(item as i64)
    }
    fn fetch(&self, item: u64) -> Result<Fetched, DataError> {
        if self.broken.contains(&item) {
            return Err(DataError::Broken { path: self.name(item), reason: "damaged".into() });
        }
        Ok(Pixels { width: 4, height: 4, channels: 1, bytes: vec![item as u8; 16] }.into())
    }
}

/// Returns the settings of samples of 4 x 4 pixels with random crops and flips.
pub(super) fn spec(on_broken_image: OnBrokenImage) -> SampleSpec {
    SampleSpec {
        seed: 3,
        size: 4,
        channels: 1,
        random_crop: true,
        random_flip: true,
        decode: Decoding::Exact,
        on_broken_image,
    }
}

/// Returns a reader of 10 images.
pub(super) fn reader(broken: &[u64], on_broken_image: OnBrokenImage) -> SampleReader {
    SampleReader::new(Arc::new(Numbers { count: 10, broken: broken.to_vec() }), spec(on_broken_image))
}
