//! Decodes arbitrary bytes as an image, exactly and fast.
#![no_main]

use admiral_data::{Buffers, Decoding, decode_for};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut buffers = Buffers::default();
    for decoding in [Decoding::Exact, Decoding::Fast] {
        let Ok(pixels) = decode_for(bytes, 16, decoding, &mut buffers) else { continue };
        assert_eq!(pixels.bytes.len(), pixels.width * pixels.height * pixels.channels);
        assert!(pixels.channels == 1 || pixels.channels == 3);
        buffers.keep(pixels);
    }
});
