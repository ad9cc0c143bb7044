//! A hash of flat memory, by which ranks compare what they hold.
//!
//! The hash of n words is the sum over i of `mix(word i, i)` modulo 2^64. A sum has the same value in any order, so the
//! hash does not depend on the device or on the number of threads. `mix` is a bijection of the word, so a change of one
//! word always changes the hash.

use crate::launch::{Error, Launch, launch, require_address};
use crate::program::Program;
use crate::shape::{DevicePointer, Shape, flat_shape};

const OPERATION: &str = "hash";

/// The argument of `hash_words`. Must have the layout of `HashArguments` in `hash.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Arguments {
    words: DevicePointer,
    partials: DevicePointer,
    length: i64,
}

/// Must be the function `mix` of `hash.cu`.
fn mix(word: u64, index: u64) -> u64 {
    let z = word.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 29)
}

/// Returns the hash of words in the memory of the host.
#[must_use]
pub fn of_words(words: impl IntoIterator<Item = u64>) -> u64 {
    (0..).zip(words).fold(0, |sum: u64, (index, word)| sum.wrapping_add(mix(word, index)))
}

fn shape(num_words: usize) -> Shape {
    flat_shape(num_words as u64, 1)
}

/// Returns the number of partial sums, of 64 bits each, that [`hash_words`] writes.
#[must_use]
pub fn num_partials(num_words: usize) -> usize {
    if num_words == 0 { 0 } else { shape(num_words).grid[0] as usize }
}

/// Enqueues the hash of `num_words` words of 64 bits, as partial sums to `partials`. The hash is their sum modulo 2^64.
///
/// # Errors
/// If an address is not a multiple of 8 ([`Error::Unsuitable`]), or the kernel cannot be compiled or launched.
///
/// # Safety
/// The addresses must be valid for `num_words` words and [`num_partials`] sums until the kernel has run.
pub unsafe fn hash_words(
    on: &dyn Launch,
    words: DevicePointer,
    num_words: usize,
    partials: DevicePointer,
) -> Result<(), Error> {
    if num_words == 0 {
        return Ok(());
    }
    require_address(OPERATION, "words", words, 8)?;
    require_address(OPERATION, "partials", partials, 8)?;
    let arguments = Arguments { words, partials, length: num_words as i64 };
    // SAFETY: `Arguments` is the argument of the kernel, and the caller guarantees the addresses.
    unsafe { launch(on, &Program::Hash, "hash_words", &shape(num_words), &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_and_each_place_counts() {
        let words: Vec<u64> = (0..40).map(|i| if i % 3 == 0 { 0 } else { i * i }).collect();
        let hash = of_words(words.iter().copied());
        for (place, bit) in (0..words.len()).flat_map(|place| (0..64).map(move |bit| (place, bit))) {
            let mut changed = words.clone();
            changed[place] ^= 1 << bit;
            assert_ne!(of_words(changed), hash, "bit {bit} of word {place}");
        }
        let mut swapped = words.clone();
        swapped.swap(1, 2);
        assert_ne!(of_words(swapped), hash);
        assert_ne!(of_words(words.iter().copied().chain([0])), hash, "a longer memory of zeros");
    }
}
