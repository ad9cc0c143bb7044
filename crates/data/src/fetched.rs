//! Decodes images that were fetched, whole or as they are stored smaller.

use admiral_containers::Fetched;

use super::buffers::Buffers;
use super::crop::{Draws, scale_short_side, square};
use super::decode::decode;
use super::error::DataError;
use super::limits::{refusal, refusal_of_scale};
use super::pixels::Pixels;
use super::sample::guarded;
use super::source::ImageSource;

/// The part of an image that is kept when it is made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cropping {
    /// The square in the middle.
    Center,
    /// The whole image.
    None,
}

/// The size at which an image is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reduction {
    /// The length of the short side in pixels.
    pub size: usize,
    /// The part that is kept.
    pub cropping: Cropping,
}

/// Decodes what [`ImageSource::fetch`] returned for the image `item`. Without a reduction it keeps its size. With one, it
/// has the pixels of a sample of that size that is not cropped at random. A panic of a decoder is an error of the image.
///
/// # Errors
/// [`DataError::Broken`] if it cannot be decoded or scaled.
pub fn decode_fetched(
    source: &dyn ImageSource,
    item: u64,
    fetched: &Fetched,
    reduction: Option<Reduction>,
) -> Result<Pixels, DataError> {
    guarded(source, item, || {
        let broken = |reason| DataError::Broken { path: source.name(item), reason };
        let image = match fetched {
            Fetched::File(bytes) => decode(bytes).map_err(broken)?,
            Fetched::Pixels { height, width, channels, bytes } => {
                if let Some(reason) = refusal(*width, *height) {
                    return Err(broken(reason));
                }
                Pixels { height: *height, width: *width, channels: *channels, bytes: bytes.clone() }
            }
        };
        let Some(Reduction { size, cropping }) = reduction else { return Ok(image) };
        let image = if source.is_padded() { image.pad_to(size) } else { image };
        if let Some(reason) = refusal_of_scale(image.width, image.height, size) {
            return Err(broken(reason));
        }
        Ok(match cropping {
            Cropping::Center => square(&image, size, &Draws { crop: None, flip: false }, &mut Buffers::default()),
            Cropping::None => scale_short_side(&image, size),
        })
    })
}
