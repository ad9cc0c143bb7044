//! Opens files of arbitrary bytes as a container, and reads all its images.

use std::path::Path;

use admiral_containers::{Container, Fetched, Kind, Settings};
use admiral_storage::StoreOptions;

/// The largest ratio of an image to the bytes that it is read from. That of deflate.
const MAX_RATIO: usize = 1032;

/// Opens the file `opened` among files with these names and bytes as a container, and reads its images.
pub fn read_container(files: &[(&str, &[u8])], opened: &str, kind: Kind) {
    // A file system in memory, if there is one.
    let shared = Path::new("/dev/shm");
    let folder = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
    let folder = folder.expect("a temporary folder");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("a temporary file");
    }
    let path = folder.path().join(opened);
    let stored: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let stores = StoreOptions::default();
    let settings = Settings { kind: Some(kind), cache: None, threads: 1, stores: &stores };
    let Ok(container) = Container::open(&path.display().to_string(), &settings) else { return };
    let num_images = container.index().num_images();
    assert!(num_images > 0);
    for item in 0..num_images.min(64) {
        assert!(!container.shown(item).is_empty());
        let length = match container.fetch(item) {
            Ok(Fetched::File(file)) => file.len(),
            Ok(Fetched::Pixels { height, width, channels, bytes }) => {
                assert_eq!(bytes.len(), height * width * channels);
                bytes.len()
            }
            Err(_) => continue,
        };
        assert!(length <= stored.saturating_mul(MAX_RATIO), "{length} bytes were read from {stored}");
    }
}
