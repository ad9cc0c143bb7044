//! An image as it was read, and how it is got from the bytes of a container.

use std::io::Read;

use crate::index::Encoding;
use crate::parquet::Codec;

/// An image as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// An image file.
    File(Vec<u8>),
    /// Values of 8 bits, `[height, width, channels]`.
    Pixels {
        /// The height in pixels.
        height: usize,
        /// The width in pixels.
        width: usize,
        /// The number of channels, 1 or 3.
        channels: usize,
        /// The values.
        bytes: Vec<u8>,
    },
}

/// Returns the image in the bytes of a container.
pub(crate) fn unpack(encoding: Encoding, bytes: Vec<u8>) -> Result<Fetched, String> {
    match encoding {
        Encoding::File => Ok(Fetched::File(bytes)),
        Encoding::Pixels { height, width, channels } => {
            let (height, width, channels) = (height as usize, width as usize, channels as usize);
            if height.checked_mul(width).and_then(|pixels| pixels.checked_mul(channels)) != Some(bytes.len()) {
                return Err(format!("{} bytes are no {height} x {width} pixels", bytes.len()));
            }
            Ok(Fetched::Pixels { height, width, channels, bytes })
        }
        Encoding::Deflated { length } => {
            let mut unpacked = Vec::new();
            let mut reader = flate2::read::DeflateDecoder::new(&bytes[..]).take(u64::from(length) + 1);
            reader.read_to_end(&mut unpacked).map_err(|error| format!("it cannot be unpacked: {error}"))?;
            if unpacked.len() != length as usize {
                return Err(format!("it has not the {length} bytes of its header"));
            }
            Ok(Fetched::File(unpacked))
        }
        Encoding::Page { codec, page, offset, length } => {
            let codec = Codec::from_number(codec).ok_or("it has an unknown compression")?;
            let page = codec.unpack_part(&bytes, page as usize)?;
            let start = offset as usize;
            let image = start.checked_add(length as usize).and_then(|end| page.get(start..end));
            image.map(|image| Fetched::File(image.to_vec())).ok_or_else(|| "it lies outside of its page".into())
        }
    }
}
