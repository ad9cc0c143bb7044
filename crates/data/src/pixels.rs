//! A decoded image in memory.

use std::ops::Range;

use admiral_containers::Fetched;

use super::planes;

/// An image with 8 bits per value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// The width in pixels.
    pub width: usize,
    /// The height in pixels.
    pub height: usize,
    /// The number of channels: 1 (gray) or 3 (red, green, blue).
    pub channels: usize,
    /// The values, `[height, width, channels]`.
    pub bytes: Vec<u8>,
}

impl From<Pixels> for Fetched {
    fn from(Pixels { width, height, channels, bytes }: Pixels) -> Self {
        Self::Pixels { height, width, channels, bytes }
    }
}

impl Pixels {
    /// Returns the length of the shorter side in pixels.
    #[must_use]
    pub fn short_side(&self) -> usize {
        self.width.min(self.height)
    }

    /// Appends the values to `values`, scaled to [-1, 1], in the order `[channels, height, width]`.
    pub fn append_planes(&self, values: &mut Vec<f32>) {
        planes::append(&self.bytes, self.channels, values);
    }

    /// Returns the square of `size` x `size` pixels whose upper left corner is at (`x`, `y`). `flip` mirrors it
    /// horizontally.
    #[must_use]
    pub fn crop(&self, y: usize, x: usize, size: usize, flip: bool) -> Self {
        let mut square = Lines::all(self).part(x..x + size, y..y + size);
        if flip {
            square.mirror();
        }
        square
    }

    /// Mirrors the image horizontally.
    pub(crate) fn mirror(&mut self) {
        for row in self.bytes.chunks_exact_mut((self.width * self.channels).max(1)) {
            match self.channels {
                3 => row.as_chunks_mut::<3>().0.reverse(),
                _ => row.reverse(),
            }
        }
    }

    /// Adds a black border around the image, so that each side has at least `size` pixels.
    #[must_use]
    pub fn pad_to(self, size: usize) -> Self {
        if self.width >= size && self.height >= size {
            return self;
        }
        let (width, height) = (self.width.max(size), self.height.max(size));
        let (left, top) = ((width - self.width) / 2, (height - self.height) / 2);
        let mut bytes = vec![0; width * height * self.channels];
        for (index, row) in self.bytes.chunks_exact(self.width * self.channels).enumerate() {
            let start = ((top + index) * width + left) * self.channels;
            bytes[start..start + row.len()].copy_from_slice(row);
        }
        Self { width, height, channels: self.channels, bytes }
    }

    /// Converts the image to 1 or 3 channels. Color becomes gray by the luma of ITU-R 601-2. Gray is
    /// repeated three times.
    #[must_use]
    pub fn with_channels(self, channels: usize) -> Self {
        let bytes = match (self.channels, channels) {
            (3, 1) => self
                .bytes
                .chunks_exact(3)
                .map(|p| {
                    // Pillow's conversion: the weights 0.299, 0.587 and 0.114 in 16-bit fixed point, rounded.
                    let sum = u32::from(p[0]) * 19595 + u32::from(p[1]) * 38470 + u32::from(p[2]) * 7471;
                    ((sum + 0x8000) >> 16) as u8
                })
                .collect(),
            (1, 3) => self.bytes.iter().flat_map(|&value| [value; 3]).collect(),
            _ => return self,
        };
        Self { channels, bytes, ..self }
    }
}

/// Some rows and columns of an image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lines<'a> {
    /// From the first value of the first row on. Values behind the last row may follow.
    pub(crate) bytes: &'a [u8],
    /// The number of values from one row to the next.
    pub(crate) stride: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) channels: usize,
}

impl<'a> Lines<'a> {
    /// Returns all rows and columns of an image.
    pub(crate) fn all(image: &'a Pixels) -> Self {
        let Pixels { width, height, channels, ref bytes } = *image;
        Self { bytes, stride: width * channels, width, height, channels }
    }

    /// Returns the rows `rows`.
    pub(crate) fn rows(self, rows: Range<usize>) -> Self {
        let height = rows.len();
        Self { bytes: self.bytes.get(rows.start * self.stride..).unwrap_or_default(), height, ..self }
    }

    /// Returns the columns `columns`.
    pub(crate) fn columns(self, columns: Range<usize>) -> Self {
        let width = columns.len();
        Self { bytes: self.bytes.get(columns.start * self.channels..).unwrap_or_default(), width, ..self }
    }

    /// Returns a rectangle as an image.
    pub(crate) fn part(self, columns: Range<usize>, rows: Range<usize>) -> Pixels {
        let part = self.rows(rows).columns(columns);
        let mut bytes = Vec::with_capacity(part.width * part.height * part.channels);
        (0..part.height).for_each(|row| bytes.extend_from_slice(part.row(row)));
        Pixels { width: part.width, height: part.height, channels: part.channels, bytes }
    }

    /// Returns the values of the row `row`.
    pub(crate) fn row(self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.stride..][..self.width * self.channels]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gray(width: usize, height: usize, bytes: &[u8]) -> Pixels {
        Pixels { width, height, channels: 1, bytes: bytes.to_vec() }
    }

    #[test]
    fn an_image_is_cropped_and_flipped() {
        let image = gray(3, 2, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(image.crop(0, 1, 2, false).bytes, [2, 3, 5, 6]);
        assert_eq!(image.crop(0, 1, 2, true).bytes, [3, 2, 6, 5]);
    }

    #[test]
    fn an_image_is_mirrored() {
        let mirrored = |width, channels, bytes: &[u8]| {
            let mut image = Pixels { width, height: 2, channels, bytes: bytes.to_vec() };
            image.mirror();
            image.bytes
        };
        assert_eq!(mirrored(3, 1, &[1, 2, 3, 4, 5, 6]), [3, 2, 1, 6, 5, 4]);
        assert_eq!(mirrored(2, 3, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 7, 7, 7]), [4, 5, 6, 1, 2, 3, 7, 7, 7, 7, 8, 9]);
    }

    #[test]
    fn padding_surrounds_a_small_image_and_keeps_a_large_one() {
        let padded = gray(1, 2, &[7, 8]).pad_to(4);
        assert_eq!((padded.width, padded.height), (4, 4));
        assert_eq!(padded.bytes, [0, 0, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(gray(2, 2, &[1; 4]).pad_to(1), gray(2, 2, &[1; 4]));
    }

    #[test]
    fn gray_and_color_are_converted_into_each_other() {
        let color = gray(1, 1, &[9]).with_channels(3);
        assert_eq!((color.channels, color.bytes.clone()), (3, vec![9, 9, 9]));
        assert_eq!(color.with_channels(1).bytes, [9]);
    }
}
