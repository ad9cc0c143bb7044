//! Signatures and sizes of the zip format.

pub(super) const LOCAL_HEADER: u32 = 0x0403_4b50;
pub(super) const CENTRAL_HEADER: u32 = 0x0201_4b50;
pub(super) const END: u32 = 0x0605_4b50;
pub(super) const END_64: u32 = 0x0606_4b50;
pub(super) const END_64_LOCATOR: u32 = 0x0706_4b50;

/// The first bytes of every zip archive that is not empty.
pub(crate) const MAGIC: &[u8] = b"PK\x03\x04";

pub(super) const LOCAL_HEADER_BYTES: usize = 30;
pub(super) const CENTRAL_HEADER_BYTES: usize = 46;
pub(super) const END_BYTES: usize = 22;
pub(super) const END_64_BYTES: usize = 56;
pub(super) const END_64_LOCATOR_BYTES: usize = 20;

/// The ID of the extra field with 64-bit lengths and offsets.
pub(super) const EXTRA_64: u16 = 1;

/// The value of a 32-bit field whose number is in the 64-bit extra field instead.
pub(super) const IN_64: u32 = u32::MAX;
