//! Reads arbitrary bytes as an npz file: images, labels, and floating-point numbers of all its arrays.
#![no_main]

use admiral_npz::{Npz, NpzImages};
use libfuzzer_sys::fuzz_target;

/// The largest ratio of what a file holds to its length: deflate makes at most 1032 bytes of one. Labels of one byte become
/// eight.
const MAX_RATIO: usize = 1032 * 8;

/// The largest number of images that are read at a time, in bytes.
const MAX_BYTES: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Ok(npz) = Npz::from_bytes(bytes.to_vec().into(), "input") else { return };
    let keys: Vec<String> = npz.keys().map(str::to_owned).collect();
    let mut read = 0;
    for key in &keys {
        if let Ok(Some(floats)) = npz.floats(key) {
            let count = floats.shape.iter().try_fold(1_usize, |count, &side| count.checked_mul(side));
            assert_eq!(Some(floats.values.len()), count);
            read += floats.values.len() * size_of::<f64>();
        }
        read += npz.labels(key).map_or(0, |labels| labels.len() * size_of::<i64>());
    }
    assert!(read <= bytes.len() * MAX_RATIO, "{read} bytes were read from {}", bytes.len());

    let Ok(mut images) = NpzImages::from_bytes(bytes.to_vec().into(), "input") else { return };
    let image_bytes = images.shape().iter().product::<usize>();
    let count = (MAX_BYTES / image_bytes as u64).min(images.num());
    // The first images, and the last, which lie behind all others.
    for range in [0..count, images.num() - count..images.num()] {
        let Ok(pixels) = images.read(range.clone()) else { continue };
        assert_eq!(pixels.len() as u64, (range.end - range.start) * image_bytes as u64);
    }
    if let Ok(labels) = images.labels("arr_1") {
        assert_eq!(labels.len() as u64, images.num());
    }
});
