//! Reads arbitrary bytes as a container of the kind `parquet`: its index and all its images.
#![no_main]

mod support;

use admiral_containers::Kind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    // The crate that reads Parquet panics on some damaged files. Such a panic is caught and becomes an error. Any other
    // ends the process.
    init: std::panic::set_hook(Box::new(|panic| {
        if !panic.location().is_some_and(|place| place.file().contains("/parquet-")) {
            eprintln!("{panic}");
            std::process::abort();
        }
    })),
    |bytes: &[u8]| support::read_container(&[("a.parquet", bytes)], "a.parquet", Kind::Parquet)
);
