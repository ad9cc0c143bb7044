//! The part of the zip format that PyTorch uses: uncompressed entries, 64-bit lengths, aligned data.

mod format;
mod read;
mod write;

pub(crate) use format::MAGIC;
pub(crate) use read::Archive;
pub(crate) use write::ArchiveWriter;
