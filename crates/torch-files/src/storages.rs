//! The locations of storages in a file.

use std::collections::HashMap;

/// A range of bytes in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The offset of its first byte in the file.
    pub(crate) offset: u64,
    /// Its length in bytes.
    pub(crate) length: u64,
    /// The CRC-32 of its bytes. `None` if the file has none: PyTorch writes 0 when it is told to leave checksums out.
    pub(crate) crc32: Option<u32>,
}

/// The extent of each storage, by the storage's key.
pub(crate) type Storages = HashMap<String, Extent>;
