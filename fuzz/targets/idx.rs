//! Reads arbitrary bytes as the images and as the labels of IDX files.
#![no_main]

use std::path::Path;

use admiral_data::{Idx, ImageSource};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // A file system in memory, if there is one.
    let shared = Path::new("/dev/shm");
    let folder = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
    let folder = folder.expect("a temporary folder");
    let (images, labels) = (folder.path().join("images"), folder.path().join("labels"));
    // Two images of one pixel: their labels may be any.
    std::fs::write(&images, [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 7, 9]).expect("a temporary file");
    std::fs::write(&labels, bytes).expect("a temporary file");
    if let Ok(idx) = Idx::open(&images, Some(&labels)) {
        assert_eq!(idx.num_images(), 2);
        let classes = [0, 1].map(|item| idx.class(item).expect("labels are classes"));
        assert!(classes.iter().all(|&class| class >= 0 && (class as usize) < idx.num_classes()));
    }
    let Ok(idx) = Idx::open(&labels, None) else { return };
    for item in 0..idx.num_images().min(64) {
        assert!(idx.fetch(item).is_ok(), "all values were read when it was opened");
    }
});
