//! SHA-256 digests as text.

use sha2::{Digest, Sha256};

/// Returns bytes, such as a digest, as lowercase hexadecimal digits.
#[must_use]
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the digest as lowercase hexadecimal digits.
pub(crate) fn hex_digest(hash: Sha256) -> String {
    hex(hash.finalize())
}
