//! Philox4x32-10, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

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
            let counter = [self.block as u32, (self.block >> 32) as u32, self.index as u32, (self.index >> 32) as u32];
            self.buffer = philox_4x32_10(counter, self.key);
            self.block += 1;
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
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
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

    /// Fills `out` with standard normal numbers. The Box-Muller transform makes two numbers from two 32-bit draws.
    pub fn fill_normal(&mut self, out: &mut [f32]) {
        for pair in out.chunks_mut(2) {
            // 1 - u is in (0, 1], so that its logarithm is finite.
            let radius = 1.0 - f64::from(self.next_u32()) / 4_294_967_296.0;
            let angle = f64::from(self.next_u32()) / 4_294_967_296.0;
            let radius = (-2.0 * radius.ln()).sqrt();
            let (sine, cosine) = (std::f64::consts::TAU * angle).sin_cos();
            pair[0] = (radius * cosine) as f32;
            if let Some(second) = pair.get_mut(1) {
                *second = (radius * sine) as f32;
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

/// Returns the random bits of one counter, by ten rounds of Philox.
fn philox_4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers are those that the authors publish with Random123.
    #[test]
    fn the_published_known_answers_are_reproduced() {
        assert_eq!(philox_4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox_4x32_10([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox_4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

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
    fn integers_below_a_bound_are_uniform() {
        let mut random = Philox::new(3, Stream::Augmentation, 9);
        let mut counts = [0; 7];
        (0..70_000).for_each(|_| counts[random.below(7) as usize] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
