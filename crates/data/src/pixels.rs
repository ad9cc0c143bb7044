//! A decoded picture in memory.

/// 8-bit pixels, `[height, width, channels]` in one vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// `height * width * channels` bytes.
    pub bytes: Vec<u8>,
}

impl Pixels {
    /// The shorter side.
    #[must_use]
    pub fn short_side(&self) -> usize {
        self.width.min(self.height)
    }

    /// Appends the values in [-1, 1] as networks take them: `[channels, height, width]`.
    pub fn append_planes(&self, values: &mut Vec<f32>) {
        for channel in 0..self.channels {
            let bytes = self.bytes.iter().skip(channel).step_by(self.channels);
            values.extend(bytes.map(|&value| f32::from(value) / 127.5 - 1.0));
        }
    }

    /// The part of `size` x `size` pixels whose upper left corner lies at (`x`, `y`), mirrored where `flip` says so.
    #[must_use]
    pub fn crop(&self, y: usize, x: usize, size: usize, flip: bool) -> Self {
        let mut bytes = Vec::with_capacity(size * size * self.channels);
        for row in self.bytes.chunks_exact(self.width * self.channels).skip(y).take(size) {
            let row = &row[x * self.channels..(x + size) * self.channels];
            if flip {
                row.chunks_exact(self.channels).rev().for_each(|pixel| bytes.extend_from_slice(pixel));
            } else {
                bytes.extend_from_slice(row);
            }
        }
        Self { width: size, height: size, channels: self.channels, bytes }
    }

    /// The picture in the middle of a `size` x `size` one that is black elsewhere; itself where it is not smaller.
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

    /// With the number of channels that a run wants: luma of colour as ITU-R 601-2 has it, grey three times.
    #[must_use]
    pub fn with_channels(self, channels: usize) -> Self {
        let bytes = match (self.channels, channels) {
            (3, 1) => self
                .bytes
                .chunks_exact(3)
                .map(|p| {
                    // Weights 0.299, 0.587 and 0.114 in 16-bit fixed point, rounded: Pillow's conversion.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize, bytes: &[u8]) -> Pixels {
        Pixels { width, height, channels: 1, bytes: bytes.to_vec() }
    }

    #[test]
    fn crops_and_flips() {
        let picture = grey(3, 2, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(picture.crop(0, 1, 2, false).bytes, [2, 3, 5, 6]);
        assert_eq!(picture.crop(0, 1, 2, true).bytes, [3, 2, 6, 5]);
    }

    #[test]
    fn pads_in_the_middle() {
        let padded = grey(1, 2, &[7, 8]).pad_to(4);
        assert_eq!((padded.width, padded.height), (4, 4));
        assert_eq!(padded.bytes, [0, 0, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(grey(2, 2, &[1; 4]).pad_to(1), grey(2, 2, &[1; 4]));
    }

    #[test]
    fn converts_between_grey_and_colour() {
        let colour = grey(1, 1, &[9]).with_channels(3);
        assert_eq!((colour.channels, colour.bytes.clone()), (3, vec![9, 9, 9]));
        assert_eq!(colour.with_channels(1).bytes, [9]);
    }
}
