//! Reads arbitrary bytes as a container of the kind `tar`: its index and all its images.
#![no_main]

mod support;

use admiral_containers::Kind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| support::read_container(&[("a.tar", bytes)], "a.tar", Kind::Tar));
