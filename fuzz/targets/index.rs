//! Reads arbitrary bytes as the file of an index. Its checksum is added, so that the fuzzer need not find it.
#![no_main]

use admiral_containers::{Container, Kind, Settings};
use admiral_storage::StoreOptions;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let index = folder.path().join(".admiral");
    std::fs::create_dir(&index).expect("a folder");
    std::fs::write(index.join("tree.index"), [bytes, &Sha256::digest(bytes)[..]].concat()).expect("a file");
    let stores = StoreOptions::default();
    let settings = Settings { kind: Some(Kind::Tree), cache: None, threads: 1, stores: &stores };
    let Ok(container) = Container::open(&folder.path().display().to_string(), &settings) else { return };
    for item in 0..container.index().num_images().min(64) {
        let _ = container.fetch(item);
    }
});
