//! Grids of images, and their PNG encoding.

use admiral_png::encode;

/// An error of arranging or encoding images.
#[derive(Debug, thiserror::Error)]
pub enum GridError {
    /// The sizes do not match the number of bytes.
    #[error("{bytes} bytes are not a whole number of pictures of {height} x {width} with {channels} channels")]
    Size {
        /// The number of bytes given.
        bytes: usize,
        /// Height of one image in pixels.
        height: usize,
        /// Width of one image in pixels.
        width: usize,
        /// Channels of one image.
        channels: usize,
    },
    /// PNG cannot represent the image.
    #[error("a PNG of {height} x {width} with {channels} channels cannot be made: {reason}")]
    Png {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// Channels.
        channels: usize,
        /// The message of the encoder.
        reason: String,
    },
}

/// An image that shows several images in rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// The number of channels: 1 is gray, 3 is RGB.
    pub channels: usize,
    /// The bytes, `[height, width, channels]`.
    pub pixels: Vec<u8>,
}

impl Grid {
    /// Arranges images in rows of `columns`, with `padding` black pixels around each.
    ///
    /// `images` is `[num, height, width, channels]`, `size` is `[height, width, channels]`. Images fill each row from
    /// left to right. The rest of the last row is black.
    ///
    /// # Errors
    /// [`GridError::Size`] if `images` is empty or not a whole number of images.
    pub fn of(images: &[u8], size: [usize; 3], columns: usize, padding: usize) -> Result<Self, GridError> {
        let [height, width, channels] = size;
        let bytes = height * width * channels;
        if bytes == 0 || images.is_empty() || !images.len().is_multiple_of(bytes) {
            return Err(GridError::Size { bytes: images.len(), height, width, channels });
        }
        let num = images.len() / bytes;
        let columns = columns.clamp(1, num);
        let rows = num.div_ceil(columns);
        let (grid_width, grid_height) = (columns * (width + padding) + padding, rows * (height + padding) + padding);
        let mut pixels = vec![0; grid_width * grid_height * channels];
        for (index, image) in images.chunks_exact(bytes).enumerate() {
            let top = padding + index / columns * (height + padding);
            let left = padding + index % columns * (width + padding);
            for (y, row) in image.chunks_exact(width * channels).enumerate() {
                let start = ((top + y) * grid_width + left) * channels;
                pixels[start..start + row.len()].copy_from_slice(row);
            }
        }
        Ok(Self { width: grid_width, height: grid_height, channels, pixels })
    }

    /// Encodes the grid as a PNG file.
    ///
    /// # Errors
    /// [`GridError::Png`] if there are not 1 to 4 channels, or the sizes do not match the number of bytes.
    pub fn png(&self) -> Result<Vec<u8>, GridError> {
        let png_error =
            |reason: String| GridError::Png { height: self.height, width: self.width, channels: self.channels, reason };
        encode(&self.pixels, [self.height, self.width, self.channels]).map_err(png_error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn images_fill_rows_from_left_to_right() {
        let grid = Grid::of(&[1, 2, 3], [1, 1, 1], 2, 1).unwrap();
        assert_eq!((grid.width, grid.height), (5, 5));
        let rows: Vec<&[u8]> = grid.pixels.chunks(5).collect();
        assert_eq!(rows, [[0; 5], [0, 1, 0, 2, 0], [0; 5], [0, 3, 0, 0, 0], [0; 5]]);
    }

    #[test]
    fn the_channels_of_a_pixel_stay_together() {
        let images: Vec<u8> = (0..24).collect(); // two RGB images of 2 x 2
        let grid = Grid::of(&images, [2, 2, 3], 2, 0).unwrap();
        assert_eq!((grid.width, grid.height), (4, 2));
        assert_eq!(grid.pixels[..12], [0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17]);
    }

    #[test]
    fn a_png_decodes_to_the_same_pixels() {
        for channels in 1..=4 {
            let pixels: Vec<u8> = (0..6 * channels).map(|i| 10 * i as u8).collect();
            let grid = Grid::of(&pixels, [2, 3, channels], 1, 0).unwrap();
            let decoded = image::load_from_memory(&grid.png().unwrap()).unwrap();
            assert_eq!((decoded.width(), decoded.height()), (3, 2));
            assert_eq!(decoded.as_bytes(), pixels);
        }
    }

    #[test]
    fn wrong_sizes_are_errors() {
        assert!(matches!(Grid::of(&[0; 5], [2, 2, 1], 1, 0), Err(GridError::Size { bytes: 5, .. })));
        assert!(matches!(Grid::of(&[], [2, 2, 1], 1, 0), Err(GridError::Size { .. })));
        assert!(matches!(Grid::of(&[0; 10], [1, 2, 5], 1, 0).unwrap().png(), Err(GridError::Png { .. })));
        let truncated = Grid { width: 2, height: 2, channels: 1, pixels: vec![0; 3] };
        assert!(matches!(truncated.png(), Err(GridError::Png { .. })));
    }
}
