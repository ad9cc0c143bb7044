//! Reads arbitrary bytes as an npz file: images, labels, and floating-point numbers of all its arrays; and as the pickle of
//! an array of Python objects in such a file.
#![no_main]

use admiral_npz::{Npz, NpzImages};
use libfuzzer_sys::fuzz_target;

/// The largest ratio of what a file holds to its length: deflate makes at most 1032 bytes of one. Labels of one byte become
/// eight.
const MAX_RATIO: usize = 1032 * 8;

/// The largest number of images that are read at a time, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The largest number of numbers for each byte of a pickle.
const MAX_NUMBERS_OF_BYTE: usize = 4;

/// Returns the CRC-32 of zip files.
fn crc32(bytes: &[u8]) -> u32 {
    let one = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), one))
}

/// Returns an npz file with the array `mu` of two Python objects, whose pickle is given.
fn npz_of_pickle(pickle: &[u8]) -> Vec<u8> {
    let dictionary = format!("{:<117}\n", "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }");
    let member = [b"\x93NUMPY\x01\0\x76\0", dictionary.as_bytes(), pickle].concat();
    let length = (member.len() as u32).to_le_bytes();
    let sums = [crc32(&member).to_le_bytes(), length, length].concat();
    let name = b"mu.npy";
    let lengths = [name.len() as u8, 0, 0, 0];
    let local = [b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0".as_slice(), &sums, &lengths, name, &member].concat();
    let entry = [b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0".as_slice(), &sums, &lengths, &[0; 14], name].concat();
    let counts = b"PK\x05\x06\0\0\0\0\x01\0\x01\0";
    let place = [(entry.len() as u32).to_le_bytes(), (local.len() as u32).to_le_bytes()].concat();
    [local.as_slice(), &entry, counts, &place, &[0; 2]].concat()
}

fuzz_target!(|bytes: &[u8]| {
    let npz = Npz::from_bytes(npz_of_pickle(bytes).into(), "input").expect("it is an npz file");
    if let Ok(Some(floats)) = npz.floats("mu") {
        assert!(floats.values.len() <= bytes.len() * MAX_NUMBERS_OF_BYTE, "{} numbers", floats.values.len());
    }
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
