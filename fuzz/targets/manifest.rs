//! Any bytes as a checkpoint's manifest. One that is accepted can be written and read again.
#![no_main]

use admiral_checkpoints_schema::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(manifest) = Manifest::from_json(bytes) else { return };
    let _ = manifest.roles();
    let again = serde_json::to_vec(&manifest).expect("a manifest can be written");
    // As JSON, because NaN, which a configuration cannot hold, would be the only difference that is none.
    let again = Manifest::from_json(&again).map(|manifest| serde_json::to_value(manifest).ok());
    assert_eq!(again, Ok(serde_json::to_value(&manifest).ok()));
});
