//! The compression of pages.

use std::io::Read;

use parquet::basic::Compression;

use super::snappy;

/// A compression. Its number is that of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// No compression.
    None = 0,
    /// Snappy. What is unpacked are elements from the middle of a page, without the length in front of them.
    Snappy = 1,
    /// Gzip.
    Gzip = 2,
    /// Zstandard.
    Zstd = 6,
}

impl Codec {
    /// Returns the compression of a column.
    pub(super) fn of(compression: Compression) -> Result<Self, String> {
        match compression {
            Compression::UNCOMPRESSED => Ok(Self::None),
            Compression::SNAPPY => Ok(Self::Snappy),
            Compression::GZIP(_) => Ok(Self::Gzip),
            Compression::ZSTD(_) => Ok(Self::Zstd),
            other => Err(format!("it is compressed by {other}; write it with snappy, zstd, gzip or none")),
        }
    }

    /// Returns the compression with this number.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [Self::None, Self::Snappy, Self::Gzip, Self::Zstd].into_iter().find(|&codec| codec as u32 == number)
    }

    /// Unpacks a whole page of `length` bytes.
    pub(super) fn unpack(self, bytes: &[u8], length: usize) -> Result<Vec<u8>, String> {
        match self {
            Self::Snappy => {
                let (elements, stated) = snappy::elements(bytes).ok_or("has no length")?;
                if stated != length {
                    return Err(format!("has {stated} bytes instead of {length}"));
                }
                self.unpack_part(elements, length)
            }
            _ => self.unpack_part(bytes, length),
        }
    }

    /// Unpacks what an index names: a page, or of Snappy some elements of one.
    pub(crate) fn unpack_part(self, bytes: &[u8], length: usize) -> Result<Vec<u8>, String> {
        let unpacked = match self {
            Self::None => Some(bytes.to_vec()),
            Self::Snappy => snappy::unpack(bytes, length),
            Self::Gzip => read(flate2::read::MultiGzDecoder::new(bytes), length)?,
            Self::Zstd => read(zstd::Decoder::new(bytes).map_err(|error| error.to_string())?, length)?,
        };
        let unpacked = unpacked.filter(|unpacked| unpacked.len() == length);
        unpacked.ok_or_else(|| format!("cannot be unpacked to {length} bytes"))
    }
}

/// Reads what a decoder has. Stops if it is more than `length` bytes, so that a small file cannot fill the memory.
fn read(decoder: impl Read, length: usize) -> Result<Option<Vec<u8>>, String> {
    let mut unpacked = Vec::new();
    let read = decoder.take(length as u64 + 1).read_to_end(&mut unpacked);
    read.map_err(|error| format!("cannot be unpacked: {error}"))?;
    Ok(Some(unpacked))
}
