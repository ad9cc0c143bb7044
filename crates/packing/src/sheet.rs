//! A picture that shows some images of a source.

use admiral_data::{Cropping, DataError, ImageSource, Pixels, Reduction, decode_fetched, spaced_items};
use admiral_telemetry::Grid;

use crate::error::Error;

/// The side of an image on the sheet, in pixels.
const SIDE: usize = 128;

/// The pixels between two images.
const PADDING: usize = 2;

/// Returns a PNG file with up to `count` images that are evenly spaced over a source, cropped to squares as for training,
/// in rows. Broken images are black.
///
/// # Errors
/// If the source cannot be read, or the picture would be too large.
pub fn contact_sheet(source: &dyn ImageSource, count: u64) -> Result<Vec<u8>, Error> {
    let reduction = Reduction { size: SIDE, cropping: Cropping::Center };
    let mut squares = Vec::new();
    for item in spaced_items(source.num_images(), count) {
        let square = source.fetch(item).and_then(|fetched| decode_fetched(source, item, &fetched, Some(reduction)));
        let square = match square {
            Ok(square) => square.with_channels(3),
            Err(DataError::Broken { .. }) => {
                Pixels { width: SIDE, height: SIDE, channels: 3, bytes: vec![0; SIDE * SIDE * 3] }
            }
            Err(error) => return Err(error.into()),
        };
        squares.extend(square.bytes);
    }
    let images = squares.len() / (SIDE * SIDE * 3);
    let columns = images.isqrt() + usize::from(images.isqrt().pow(2) < images);
    let grid = Grid::of(&squares, [SIDE, SIDE, 3], columns, PADDING).and_then(|grid| grid.png());
    grid.map_err(|error| Error::Bug(error.to_string()))
}
