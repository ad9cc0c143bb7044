//! Reads arbitrary bytes as the index of DALI beside a tar file.
#![no_main]

mod support;

use admiral_containers::Kind;
use libfuzzer_sys::fuzz_target;

/// The tar file that the index is for.
const TAR: &[u8] = include_bytes!("../seeds/tar/0.tar");

fuzz_target!(|bytes: &[u8]| support::read_container(&[("a.tar", TAR), ("a.idx", bytes)], "a.tar", Kind::Tar));
