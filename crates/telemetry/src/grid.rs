//! Many small pictures as one.

use std::io::Write;
use std::path::Path;

use image::{ExtendedColorType, ImageEncoder};

/// Why pictures cannot be put together or encoded.
#[derive(Debug, thiserror::Error)]
pub enum GridError {
    /// The numbers do not describe the bytes.
    #[error("{bytes} bytes are not a whole number of pictures of {height} x {width} with {channels} channels")]
    Size {
        /// Bytes given.
        bytes: usize,
        /// Height of one picture in pixels.
        height: usize,
        /// Width of one picture in pixels.
        width: usize,
        /// Channels of one picture.
        channels: usize,
    },
    /// PNG knows no such picture.
    #[error("a PNG of {height} x {width} with {channels} channels cannot be made: {reason}")]
    Png {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// Channels.
        channels: usize,
        /// What the encoder says.
        reason: String,
    },
}

/// One picture: bytes in the order `[height, width, channels]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Channels: 1 gray, 3 RGB.
    pub channels: usize,
    /// `[height, width, channels]`.
    pub pixels: Vec<u8>,
}

impl Grid {
    /// Lays pictures out in rows of `columns`, with `padding` black pixels around each.
    ///
    /// `images` is `[num, height, width, channels]`, `size` is `[height, width, channels]`. The last row may
    /// stay partly black.
    ///
    /// # Errors
    /// [`GridError::Size`] where the bytes are no whole number of pictures, or none.
    pub fn of(images: &[u8], size: [usize; 3], columns: usize, padding: usize) -> Result<Self, GridError> {
        let [height, width, channels] = size;
        let bytes = height * width * channels;
        if bytes == 0 || images.is_empty() || !images.len().is_multiple_of(bytes) {
            return Err(GridError::Size { bytes: images.len(), height, width, channels });
        }
        let num = images.len() / bytes;
        let columns = columns.clamp(1, num);
        let rows = num.div_ceil(columns);
        let (whole_width, whole_height) = (columns * (width + padding) + padding, rows * (height + padding) + padding);
        let mut pixels = vec![0; whole_width * whole_height * channels];
        for (place, image) in images.chunks_exact(bytes).enumerate() {
            let top = padding + place / columns * (height + padding);
            let left = padding + place % columns * (width + padding);
            for (y, row) in image.chunks_exact(width * channels).enumerate() {
                let start = ((top + y) * whole_width + left) * channels;
                pixels[start..start + row.len()].copy_from_slice(row);
            }
        }
        Ok(Self { width: whole_width, height: whole_height, channels, pixels })
    }

    /// The picture as a PNG file.
    ///
    /// # Errors
    /// [`GridError::Png`] for other than 1 to 4 channels, or where the sizes do not describe the bytes.
    pub fn png(&self) -> Result<Vec<u8>, GridError> {
        let refused =
            |reason: String| GridError::Png { height: self.height, width: self.width, channels: self.channels, reason };
        let color = match self.channels {
            1 => ExtendedColorType::L8,
            2 => ExtendedColorType::La8,
            3 => ExtendedColorType::Rgb8,
            4 => ExtendedColorType::Rgba8,
            _ => return Err(refused("it has 1 to 4 channels".into())),
        };
        // The encoder panics on a wrong length.
        let expected = self.height.checked_mul(self.width).and_then(|n| n.checked_mul(self.channels));
        if expected != Some(self.pixels.len()) || self.pixels.is_empty() {
            return Err(refused(format!("it has {} bytes", self.pixels.len())));
        }
        let side = |pixels: usize| u32::try_from(pixels).map_err(|_| refused("it is too large".into()));
        let mut png = Vec::new();
        image::codecs::png::PngEncoder::new(&mut png)
            .write_image(&self.pixels, side(self.width)?, side(self.height)?, color)
            .map_err(|error| refused(error.to_string()))?;
        Ok(png)
    }
}

/// Writes a whole file or leaves what was there: the bytes go to `<path>.partial`, which then takes the name.
/// The folder is made where it is missing.
///
/// # Errors
/// Those of the file system.
pub fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(".partial");
    let mut file = std::fs::File::create(&aside)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&aside, path));
    if written.is_err() {
        // The first error is the one to report; a leftover is overwritten by the next try.
        let _ = std::fs::remove_file(&aside);
    }
    written
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pictures_go_left_to_right_then_down() {
        let grid = Grid::of(&[1, 2, 3], [1, 1, 1], 2, 1).unwrap();
        assert_eq!((grid.width, grid.height), (5, 5));
        let rows: Vec<&[u8]> = grid.pixels.chunks(5).collect();
        assert_eq!(rows, [[0; 5], [0, 1, 0, 2, 0], [0; 5], [0, 3, 0, 0, 0], [0; 5]]);
    }

    #[test]
    fn channels_stay_together() {
        let images: Vec<u8> = (0..24).collect(); // two pictures of 2 x 2 in RGB
        let grid = Grid::of(&images, [2, 2, 3], 2, 0).unwrap();
        assert_eq!((grid.width, grid.height), (4, 2));
        assert_eq!(grid.pixels[..12], [0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17]);
    }

    #[test]
    fn a_png_holds_the_pixels() {
        for channels in 1..=4 {
            let pixels: Vec<u8> = (0..6 * channels).map(|i| 10 * i as u8).collect();
            let grid = Grid::of(&pixels, [2, 3, channels], 1, 0).unwrap();
            let decoded = image::load_from_memory(&grid.png().unwrap()).unwrap();
            assert_eq!((decoded.width(), decoded.height()), (3, 2));
            assert_eq!(decoded.as_bytes(), pixels);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(matches!(Grid::of(&[0; 5], [2, 2, 1], 1, 0), Err(GridError::Size { bytes: 5, .. })));
        assert!(matches!(Grid::of(&[], [2, 2, 1], 1, 0), Err(GridError::Size { .. })));
        assert!(matches!(Grid::of(&[0; 10], [1, 2, 5], 1, 0).unwrap().png(), Err(GridError::Png { .. })));
        let torn = Grid { width: 2, height: 2, channels: 1, pixels: vec![0; 3] };
        assert!(matches!(torn.png(), Err(GridError::Png { .. })));
    }

    #[test]
    fn a_file_appears_whole_and_an_older_one_survives_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/picture.png");
        write_file(&path, b"old").unwrap();
        write_file(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        std::fs::create_dir(folder.path().join("new/picture.png.partial")).unwrap();
        write_file(&path, b"lost").unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }
}
