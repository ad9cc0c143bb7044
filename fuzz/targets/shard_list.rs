//! Reads arbitrary bytes as a list of tar files in the form of WebDataset's `wids`.
#![no_main]

mod support;

use admiral_containers::Kind;
use libfuzzer_sys::fuzz_target;

/// The tar files that the list may name.
const TARS: [&[u8]; 2] = [include_bytes!("../seeds/tar/0.tar"), include_bytes!("../seeds/tar/1.tar")];

fuzz_target!(|bytes: &[u8]| {
    let files = [("a-00.tar", TARS[0]), ("a-01.tar", TARS[1]), ("list.json", bytes)];
    support::read_container(&files, "list.json", Kind::Tar);
});
