//! Converts between tensor values and the bytes of safetensors files.

pub(crate) use admiral_checkpoints_schema::safetensors::{header, values_of};

/// Decodes little-endian `bytes` into `values`, whose length is a quarter of that of `bytes`.
pub(crate) fn decode_into(bytes: &[u8], values: &mut [f32]) {
    for (value, four) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*four);
    }
}
