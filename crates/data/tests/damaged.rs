//! Damaged files of every format: each is an error or an image, and never a panic.
#![allow(clippy::unwrap_used)]

use std::panic::catch_unwind;
use std::path::Path;

use admiral_data::{Buffers, Decoding, decode, decode_for};

/// Small files of all formats, with their names. They are also the first inputs of the fuzz target.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/image");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

/// Decodes a file exactly and fast, and checks what it gets. Returns whether it was decoded.
fn is_decoded(name: &str, bytes: &[u8]) -> bool {
    let decoded = catch_unwind(|| [decode(bytes), decode_for(bytes, 4, Decoding::Fast, &mut Buffers::default())]);
    let [exact, fast] = decoded.unwrap_or_else(|_| panic!("{name}: a panic"));
    for pixels in [&exact, &fast].into_iter().flatten() {
        assert_eq!(pixels.bytes.len(), pixels.width * pixels.height * pixels.channels, "{name}");
    }
    exact.is_ok()
}

#[test]
fn whole_files_are_decoded() {
    let seeds = seeds();
    assert!(seeds.len() >= 16);
    for (name, bytes) in seeds {
        assert!(is_decoded(&name, &bytes), "{name}");
    }
}

#[test]
fn truncated_files_are_errors() {
    for (name, bytes) in seeds() {
        for length in 0..bytes.len() {
            let is_decoded = is_decoded(&name, &bytes[..length]);
            // The pixels of some formats end before the file does.
            assert!(!is_decoded || length > bytes.len() / 2, "{name} cut at {length}");
        }
    }
}

#[test]
fn files_with_flipped_bits_are_images_or_errors() {
    let mut num_errors = 0;
    for (name, bytes) in seeds() {
        for bit in (0..bytes.len() * 8).step_by(3) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            num_errors += usize::from(!is_decoded(&format!("{name}, bit {bit}"), &damaged));
        }
    }
    assert!(num_errors > 1000, "{num_errors}");
}
