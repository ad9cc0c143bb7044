//! Over an epoch each image is delivered once, whatever the number of ranks, and however often the run is killed.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use admiral_contract::BatchDivision;
use admiral_data::{DataError, Decoding, ImageSource, Loader, OnBrokenImage, SampleReader, SampleSpec};
use admiral_random::{Philox, Stream};

/// Images whose classes are their numbers.
#[derive(Debug)]
struct Numbers(u64);

impl ImageSource for Numbers {
    fn num_images(&self) -> u64 {
        self.0
    }
    fn num_classes(&self) -> usize {
        self.0 as usize
    }
    fn digest(&self) -> [u8; 32] {
        [0; 32]
    }
    fn stamp(&self) -> Result<[u8; 32], DataError> {
        Ok(self.digest())
    }
    fn name(&self, item: u64) -> String {
        item.to_string()
    }
    fn entry(&self, item: u64) -> String {
        item.to_string()
    }
    fn class(&self, item: u64) -> Option<i64> {
        Some(item as i64)
    }
    fn fetch(&self, _: u64) -> Result<admiral_containers::Fetched, DataError> {
        Ok(admiral_containers::Fetched::Pixels { height: 2, width: 2, channels: 1, bytes: vec![0; 4] })
    }
}

const GLOBAL_BATCH: u64 = 12;
const MICROBATCH: u64 = 2;

/// The image of each sample that training has used, by the sample's index.
type Used = BTreeMap<u64, i64>;

/// Takes the steps `first..last` on `ranks` ranks. Returns the samples of the steps.
fn steps(num_images: u64, ranks: u64, first: u64, last: u64) -> Used {
    let mut used = Used::new();
    let division = BatchDivision::new(GLOBAL_BATCH, MICROBATCH, ranks).unwrap();
    for rank in 0..ranks {
        let spec = SampleSpec {
            seed: 3,
            size: 2,
            channels: 1,
            random_crop: false,
            random_flip: false,
            decode: Decoding::Exact,
            on_broken_image: OnBrokenImage::Stop,
        };
        let reader = SampleReader::new(Arc::new(Numbers(num_images)), spec);
        let mut loader = Loader::start(reader, 2, 3, division.passes(rank, first, last)).unwrap();
        while let Some((batch, _)) = loader.next().unwrap() {
            for (index, class) in batch.indices.into_iter().zip(batch.classes) {
                assert_eq!(used.insert(index, class), None, "sample {index} is delivered twice");
            }
        }
    }
    used
}

#[test]
fn each_epoch_has_each_image_once_with_any_kills_and_world_sizes() {
    let mut random = Philox::new(11, Stream::Initialization, 0);
    // A batch is larger than an epoch, divides it, and does not divide it.
    for num_images in [7, 24, 53] {
        let num_steps = 40 * num_images / GLOBAL_BATCH;
        let (mut used, mut saved, mut num_kills) = (Used::new(), 0, 0);
        while saved < num_steps {
            let ranks = [1, 2, 3, 6][random.below(4) as usize];
            // A killed attempt took steps that no checkpoint has. They are taken again, so they do not count.
            let reached = num_steps.min(saved + 1 + random.below(6));
            let checkpoint = if reached == num_steps { reached } else { reached - random.below(reached - saved + 1) };
            let of_attempt = steps(num_images, ranks, saved, reached);
            for (index, class) in of_attempt {
                if index < checkpoint * GLOBAL_BATCH {
                    assert_eq!(used.insert(index, class), None, "sample {index} is used twice");
                }
            }
            num_kills += u64::from(checkpoint < reached);
            saved = checkpoint;
        }
        assert!(num_kills > 2, "only {num_kills} attempts were killed");
        assert_eq!(used, steps(num_images, 1, 0, num_steps));
        assert!(used.keys().copied().eq(0..num_steps * GLOBAL_BATCH));
        let images: Vec<i64> = used.into_values().collect();
        for epoch in images.chunks_exact(num_images as usize) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            assert!(epoch.into_iter().eq(0..num_images as i64));
        }
    }
}
