//! The sequences of random numbers of a seed.

use super::blocks::{Blocks, uniform};
use super::instructions::Instructions;
use super::normal::box_muller;

/// The purpose of random numbers. The streams of one seed are independent of each other.
///
/// Runs depend on these numbers: a changed number changes the random numbers of every run that resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Initial values of parameters. The index is the position of the parameter in the network.
    Initialization = 1,
    /// The order of the data set. The index is the epoch.
    Permutation = 2,
    /// Crop and flip. The index is the global sample index.
    Augmentation = 3,
    /// The diffusion timestep. The index is the global sample index.
    Timestep = 4,
    /// The noise added to an image. The index is the global sample index.
    Noise = 5,
    /// The seeds of dropout masks, in two stages. In the first, the index mixes step, rank and microbatch. The result
    /// is the seed of the second, where the index is the position of the residual block's first parameter in the
    /// network.
    Dropout = 6,
    /// x_T and the noise of the sampling steps. The index is the number of the sample.
    Sampling = 7,
    /// The choice of images for validation. The index is the position of the image in the source.
    Split = 8,
    /// The choice of an image that replaces a broken one. The index is the global sample index.
    Replacement = 9,
    /// The class of a sampled image. The index is the number of the sample.
    Class = 10,
    /// As [`Sampling`](Self::Sampling), for the upsampler of a stack of two models.
    Upsampling = 11,
    /// The noise of an image whose likelihood is evaluated. The index is the position of the image in the source.
    Likelihood = 12,
    /// Whether the class of a sample is replaced by the null class. The index is the global sample index.
    ClassDropout = 13,
}

/// The sequence of random numbers of one (seed, stream, index).
#[derive(Debug, Clone)]
pub struct Philox {
    key: [u32; 2],
    index: u64,
    block: u64,
    buffer: [u32; 4],
    used: usize,
}

impl Philox {
    /// Returns the sequence, at its first number.
    #[must_use]
    pub fn new(seed: u64, stream: Stream, index: u64) -> Self {
        let key = mix(seed ^ mix(stream as u64));
        Self { key: [key as u32, (key >> 32) as u32], index, block: 0, buffer: [0; 4], used: 4 }
    }

    /// Returns the next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.buffer = self.next_blocks(1).draws();
            self.used = 0;
        }
        self.used += 1;
        self.buffer[self.used - 1]
    }

    /// Returns the next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// Returns a uniform number in [0, 1) with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        uniform(self.next_u32(), self.next_u32())
    }

    /// Fills `out` with the numbers that [`uniform`](Self::uniform) would return, by the fastest instructions of this
    /// processor.
    pub fn fill_uniform(&mut self, out: &mut [f64]) {
        self.fill_uniform_with(out, Instructions::fastest());
    }

    /// Fills `out` as [`fill_uniform`](Self::fill_uniform) does, by the given instructions.
    pub fn fill_uniform_with(&mut self, out: &mut [f64], instructions: Instructions) {
        let (start, out) = out.split_at_mut(self.left_in_block(2, out.len()));
        start.iter_mut().for_each(|value| *value = self.uniform());
        let (pairs, end) = out.as_chunks_mut();
        self.next_blocks(pairs.len()).fill_uniform(pairs, instructions);
        end.iter_mut().for_each(|value| *value = self.uniform());
    }

    /// Returns a uniform integer in `0..bound`. This is Lemire's method without rejection, whose bias is below
    /// `bound / 2^64`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "the bound must be greater than 0");
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Fills `out` with standard normal numbers, by the fastest instructions of this processor. The Box-Muller transform
    /// makes two numbers from two 32-bit draws; the second is dropped if `out` has no place for it.
    ///
    /// The bits do not depend on the processor. The relative error of the transform is below 4e-7. The largest absolute value
    /// is 6.66.
    pub fn fill_normal(&mut self, out: &mut [f32]) {
        self.fill_normal_with(out, Instructions::fastest());
    }

    /// Fills `out` as [`fill_normal`](Self::fill_normal) does, by the given instructions.
    pub fn fill_normal_with(&mut self, out: &mut [f32], instructions: Instructions) {
        let (start, out) = out.split_at_mut(self.left_in_block(4, out.len()));
        self.fill_normal_by_pairs(start);
        let (fours, end) = out.as_chunks_mut();
        self.next_blocks(fours.len()).fill_normal(fours, instructions);
        self.fill_normal_by_pairs(end);
    }

    /// Returns how many of the next `count` numbers come before the next whole block, if a block makes `per_block`.
    fn left_in_block(&self, per_block: usize, count: usize) -> usize {
        match 4 - self.used {
            // A number takes two draws, so that all are made of two blocks.
            1 | 3 => count,
            left => (left * per_block / 4).min(count),
        }
    }

    /// Returns the next `count` blocks and skips them.
    fn next_blocks(&mut self, count: usize) -> Blocks {
        let blocks = Blocks { key: self.key, index: self.index, first: self.block };
        self.block = self.block.wrapping_add(count as u64);
        blocks
    }

    fn fill_normal_by_pairs(&mut self, out: &mut [f32]) {
        for pair in out.chunks_mut(2) {
            let (first, second) = box_muller(self.next_u32(), self.next_u32());
            pair[0] = first;
            if let Some(place) = pair.get_mut(1) {
                *place = second;
            }
        }
    }
}

/// Spreads the bits of a number over 64 bits. This is the finalizer of SplitMix64.
#[must_use]
pub fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_and_index_has_its_own_repeatable_numbers() {
        let draw = |stream, index| Philox::new(7, stream, index).next_u64();
        assert_eq!(draw(Stream::Noise, 3), draw(Stream::Noise, 3));
        assert_ne!(draw(Stream::Noise, 3), draw(Stream::Noise, 4));
        assert_ne!(draw(Stream::Noise, 3), draw(Stream::Timestep, 3));
    }

    #[test]
    fn normal_numbers_have_the_moments_of_a_normal_distribution() {
        let mut values = vec![0.0; 100_001];
        Philox::new(1, Stream::Noise, 0).fill_normal(&mut values);
        let count = values.len() as f64;
        let moment = |power: i32| values.iter().map(|&v| f64::from(v).powi(power)).sum::<f64>() / count;
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.02 && (moment(4) - 3.0).abs() < 0.1);
    }

    #[test]
    fn normal_numbers_have_a_normal_distribution_and_no_correlation() {
        let mut values = vec![0.0; 400_000];
        Philox::new(9, Stream::Noise, 4).fill_normal(&mut values);
        let count = values.len() as f64;
        for lag in 1..=4 {
            let sum: f64 = values.iter().zip(&values[lag..]).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            // Six standard deviations.
            assert!((sum / count.sqrt()).abs() < 6.0, "lag {lag}: {sum}");
        }
        values.sort_by(f32::total_cmp);
        let distance = values.iter().zip(1..).map(|(&value, rank)| {
            let (below, upto) = (f64::from(rank - 1) / count, f64::from(rank) / count);
            let expected = normal_distribution(f64::from(value));
            (expected - below).max(upto - expected)
        });
        // The statistic of Kolmogorov and Smirnov exceeds 1.95 / sqrt(n) with probability 0.001.
        let distance = distance.fold(0.0, f64::max);
        assert!(distance < 1.95 / count.sqrt(), "{distance}");
    }

    /// Returns the probability of a standard normal number up to `x`, by the series around 0.
    fn normal_distribution(x: f64) -> f64 {
        let terms = (1..200).scan(x, |term, n| {
            let current = *term;
            *term *= x * x / f64::from(2 * n + 1);
            Some(current)
        });
        0.5 + terms.sum::<f64>() * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
    }

    #[test]
    fn filling_in_parts_or_as_a_whole_gives_the_same_numbers() {
        // Draws before the first number, and the lengths of the parts. Each part of normal numbers takes whole pairs.
        for skipped in 0..=5 {
            for parts in [[1_000, 2, 6, 4], [2, 1_000, 2, 2], [4, 2, 602, 398]] {
                let mut whole = Philox::new(3, Stream::Noise, 8);
                (0..skipped).for_each(|_| _ = whole.next_u32());
                let mut partly = whole.clone();
                let mut single = whole.clone();
                let count = parts.iter().sum();
                let (mut expected, mut actual) = (vec![0.0; count], vec![0.0; count]);
                whole.clone().fill_normal(&mut expected);
                let mut rest = &mut actual[..];
                for part in parts {
                    let (start, end) = rest.split_at_mut(part);
                    partly.fill_normal(start);
                    rest = end;
                }
                assert_eq!(actual, expected, "{skipped} {parts:?}");

                let mut uniform = vec![0.0; count + 1];
                whole.fill_uniform(&mut uniform);
                assert!(uniform.iter().all(|&value| value == single.uniform()), "{skipped} {parts:?}");
                assert_eq!(whole.next_u32(), single.next_u32());
            }
        }
    }

    #[test]
    fn integers_below_a_bound_are_uniform() {
        let mut random = Philox::new(3, Stream::Augmentation, 9);
        let mut counts = [0; 7];
        (0..70_000).for_each(|_| counts[random.below(7) as usize] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
