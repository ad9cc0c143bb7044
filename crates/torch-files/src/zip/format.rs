//! Numbers of the zip format.

pub(super) const LOCAL_HEADER: u32 = 0x0403_4b50;
pub(super) const CENTRAL_HEADER: u32 = 0x0201_4b50;
pub(super) const END: u32 = 0x0605_4b50;
pub(super) const END_64: u32 = 0x0606_4b50;
pub(super) const END_64_LOCATOR: u32 = 0x0706_4b50;

/// What every zip archive that is not empty begins with.
pub(crate) const MAGIC: &[u8] = b"PK\x03\x04";

pub(super) const LOCAL_HEADER_BYTES: usize = 30;
pub(super) const CENTRAL_HEADER_BYTES: usize = 46;
pub(super) const END_BYTES: usize = 22;
pub(super) const END_64_BYTES: usize = 56;
pub(super) const END_64_LOCATOR_BYTES: usize = 20;

/// The extra field that holds 64-bit lengths and offsets.
pub(super) const EXTRA_64: u16 = 1;

/// In a 32-bit field: look into the 64-bit one.
pub(super) const IN_64: u32 = u32::MAX;
