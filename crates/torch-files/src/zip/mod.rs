//! The part of the zip format that PyTorch uses: stored entries, 64-bit lengths, aligned data.

mod read;
mod write;

pub(crate) use read::{Archive, Entry};
pub(crate) use write::ArchiveWriter;

const LOCAL_HEADER: u32 = 0x0403_4b50;
const CENTRAL_HEADER: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const END_64_LOCATOR: u32 = 0x0706_4b50;

/// What every zip archive that is not empty begins with.
pub(crate) const MAGIC: &[u8] = b"PK\x03\x04";

const LOCAL_HEADER_BYTES: usize = 30;
const CENTRAL_HEADER_BYTES: usize = 46;
const END_BYTES: usize = 22;
const END_64_BYTES: usize = 56;
const END_64_LOCATOR_BYTES: usize = 20;

/// The extra field that holds 64-bit lengths and offsets.
const EXTRA_64: u16 = 1;

/// In a 32-bit field: look into the 64-bit one.
const IN_64: u32 = u32::MAX;
