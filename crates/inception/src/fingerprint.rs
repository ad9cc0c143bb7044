//! The fingerprint of weights.

use sha2::{Digest, Sha256};

use crate::tensors::TensorShape;

/// What the digest begins with, so that it is no digest of anything else.
const DOMAIN: &[u8] = b"inception-2015 weights, version 1\n";

/// Returns the SHA-256 over the names, shapes and float32 values, as hexadecimal digits.
pub(crate) fn fingerprint(tensors: &[(TensorShape, Vec<f32>)]) -> String {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    for (tensor, values) in tensors {
        hash.update(tensor.name.as_bytes());
        hash.update([0, tensor.shape.len() as u8]);
        for &n in &tensor.shape {
            hash.update((n as u64).to_le_bytes());
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        hash.update(bytes);
    }
    hex(hash.finalize())
}

/// Returns bytes as lowercase hexadecimal digits.
pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
