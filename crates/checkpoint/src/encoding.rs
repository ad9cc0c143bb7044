//! The values of a checkpoint's files, as bytes.

pub(super) use admiral_checkpoints_schema::safetensors::{header, values_of};

/// Puts little-endian `bytes` into `values`, which are as many.
pub(super) fn decode_into(bytes: &[u8], values: &mut [f32]) {
    for (value, four) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*four);
    }
}
