//! Reads arbitrary bytes as a file of statistics. One that is accepted must survive a round trip.
#![no_main]

use admiral_statistics::{Error, StatisticsFile};
use libfuzzer_sys::fuzz_target;

/// What is before the SHA-256 that a file states. The metadata is JSON in a text of JSON.
const STATED: &[u8] = br#"\"sha256\":\""#;

/// The number of digits of a SHA-256.
const DIGITS: usize = 64;

/// Returns the file with the SHA-256 of its values in place of the one that it states, as a hostile writer would. Without
/// that, no changed value would come further than the comparison of both.
fn mended(bytes: &[u8], error: &Error) -> Option<Vec<u8>> {
    let message = error.to_string();
    let (_, right) = message.split_once("have the SHA-256 ")?;
    let place = bytes.windows(STATED.len()).position(|window| window == STATED)? + STATED.len();
    let mut bytes = bytes.to_vec();
    bytes.get_mut(place..place + DIGITS)?.copy_from_slice(right.get(..DIGITS)?.as_bytes());
    Some(bytes)
}

fuzz_target!(|bytes: &[u8]| {
    let file = match StatisticsFile::from_bytes(bytes, "input") {
        Ok(file) => file,
        Err(error) => {
            let Some(bytes) = mended(bytes, &error) else { return };
            let Ok(file) = StatisticsFile::from_bytes(&bytes, "input") else { return };
            file
        }
    };
    let again = file.to_bytes().expect("statistics can be written");
    assert_eq!(StatisticsFile::from_bytes(&again, "input").expect("what was written can be read"), file);
    if let Ok(given) = file.given() {
        assert_eq!(given.pool.statistics().width(), file.extractor.pool);
    }
    for sums in file.classes.values() {
        let _ = sums.pool.statistics();
    }
});
