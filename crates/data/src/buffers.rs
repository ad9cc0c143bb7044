//! Memory that is used again for the next images and batches.

use super::pixels::Pixels;

/// The largest number of buffers that are kept: an image takes the decoded, a halved, a scaled one and the result.
const MOST: usize = 4;

/// The most bytes of a buffer that is kept. A few huge images must not hold memory for the rest of a run.
const LARGEST: usize = 1 << 24;

/// The largest number of vectors of numbers that are kept: a batch has images and noise.
const MOST_NUMBERS: usize = 4;

/// The memory of images and batches that are no longer needed. New memory costs a page fault for every 4 KiB, which takes as
/// long as the work on these pixels.
#[derive(Debug, Default)]
pub struct Buffers {
    free: Vec<Vec<u8>>,
    numbers: Vec<Vec<f32>>,
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

    /// Keeps the memory of the images or the noise of a batch.
    pub fn keep_numbers(&mut self, numbers: Vec<f32>) {
        if self.numbers.len() < MOST_NUMBERS {
            self.numbers.push(numbers);
        }
    }

    /// Returns an empty vector with room for `length` numbers.
    pub(crate) fn take_numbers(&mut self, length: usize) -> Vec<f32> {
        // A batch of another size gives up memory that does not fit it.
        while let Some(mut numbers) = self.numbers.pop() {
            if numbers.capacity() >= length {
                numbers.clear();
                return numbers;
            }
        }
        Vec::with_capacity(length)
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
    fn the_memory_of_a_batch_is_used_again_if_it_fits() {
        let mut buffers = Buffers::default();
        let numbers = vec![3.0; 64];
        let place = numbers.as_ptr();
        buffers.keep_numbers(numbers);
        buffers.keep_numbers(vec![1.0; 8]);
        let numbers = buffers.take_numbers(60);
        assert_eq!((numbers.as_ptr(), numbers.len()), (place, 0));
        assert!(buffers.take_numbers(8).capacity() >= 8);
        (0..20).for_each(|length| buffers.keep_numbers(vec![0.0; length]));
        assert_eq!(buffers.numbers.len(), MOST_NUMBERS);
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
