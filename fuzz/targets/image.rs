//! Decodes arbitrary bytes as an image, exactly and fast.
#![no_main]

use admiral_data::{Decoding, decode_for};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for decoding in [Decoding::Exact, Decoding::Fast] {
        let Ok(pixels) = decode_for(bytes, 16, decoding) else { continue };
        assert_eq!(pixels.bytes.len(), pixels.width * pixels.height * pixels.channels);
        assert!(pixels.channels == 1 || pixels.channels == 3);
    }
});
