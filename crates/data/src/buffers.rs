//! Memory for pixels that is used again for the next image.

use super::pixels::Pixels;

/// The largest number of buffers that are kept: an image takes the decoded, a halved, a scaled one and the result.
const MOST: usize = 4;

/// The most bytes of a buffer that is kept. A few huge images must not hold memory for the rest of a run.
const LARGEST: usize = 1 << 24;

/// The memory of images that are no longer needed. New memory costs a page fault for every 4 KiB, which takes as long as
/// the work on these pixels.
#[derive(Debug, Default)]
pub struct Buffers {
    free: Vec<Vec<u8>>,
}

impl Buffers {
    /// Keeps the memory of an image for the next ones.
    pub fn keep(&mut self, image: Pixels) {
        if image.bytes.capacity() > LARGEST {
            return;
        }
        self.free.push(image.bytes);
        if self.free.len() > MOST {
            // The smallest is the one that is missed least.
            self.free.sort_by_key(|bytes| std::cmp::Reverse(bytes.capacity()));
            self.free.truncate(MOST);
        }
    }

    /// Returns `length` bytes. Their values are those of an earlier image or 0.
    pub(crate) fn take(&mut self, length: usize) -> Vec<u8> {
        let fitting = self.free.iter().enumerate().filter(|(_, bytes)| bytes.capacity() >= length);
        match fitting.min_by_key(|(_, bytes)| bytes.capacity()).map(|(place, _)| place) {
            Some(place) => {
                let mut bytes = self.free.swap_remove(place);
                bytes.resize(length, 0);
                bytes
            }
            None => vec![0; length],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(length: usize) -> Pixels {
        Pixels { width: length, height: 1, channels: 1, bytes: vec![7; length] }
    }

    #[test]
    fn the_smallest_memory_that_fits_is_used_again() {
        let mut buffers = Buffers::default();
        [100, 40, 60].into_iter().for_each(|length| buffers.keep(image(length)));
        let place = buffers.free[2].as_ptr();
        let bytes = buffers.take(50);
        assert_eq!((bytes.as_ptr(), bytes.len()), (place, 50));
        assert_eq!(buffers.take(1_000), vec![0; 1_000]);
        assert_eq!(buffers.free.len(), 2);
    }

    #[test]
    fn the_memory_that_is_kept_is_bounded() {
        let mut buffers = Buffers::default();
        (1..20).for_each(|length| buffers.keep(image(length)));
        buffers.keep(image(LARGEST + 1));
        let lengths: Vec<usize> = buffers.free.iter().map(Vec::len).collect();
        assert_eq!(lengths, [19, 18, 17, 16]);
    }
}
