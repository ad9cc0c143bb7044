//! Reads arbitrary bytes as a checkpoint's manifest. A manifest that is accepted must survive a round trip.
#![no_main]

use admiral_checkpoints_schema::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(manifest) = Manifest::from_json(bytes) else { return };
    let _ = manifest.roles();
    let again = serde_json::to_vec(&manifest).expect("a manifest can be written");
    // Compared as JSON, because NaN is not equal to itself.
    let again = Manifest::from_json(&again).map(|manifest| serde_json::to_value(manifest).ok());
    assert_eq!(again, Ok(serde_json::to_value(&manifest).ok()));
});
