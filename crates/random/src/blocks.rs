//! Philox4x32-10, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). Loops
//! over many blocks of four draws, which the compiler translates into vector instructions.

use super::instructions::{Instructions, Kind};
use super::normal::box_muller;

/// The number of blocks for which draws are held at a time, in the first-level cache.
const BLOCKS: usize = 64;

/// A sequence of blocks: those of the counters `first`, `first + 1`, ... of an index, under a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blocks {
    pub(crate) key: [u32; 2],
    pub(crate) index: u64,
    pub(crate) first: u64,
}

impl Blocks {
    /// Returns the four draws of the first block.
    pub(crate) fn draws(self) -> [u32; 4] {
        self.at(self.first)
    }

    /// Returns the four draws of a block.
    #[inline(always)]
    fn at(self, block: u64) -> [u32; 4] {
        let counter = [block as u32, (block >> 32) as u32, self.index as u32, (self.index >> 32) as u32];
        philox_4x32_10(counter, self.key)
    }

    /// Fills `out` with standard normal numbers, four for each block. A block makes the first two of its first two draws,
    /// the others of its last two.
    pub(crate) fn fill_normal(self, out: &mut [[f32; 4]], instructions: Instructions) {
        match instructions.0 {
            Kind::Portable => self.fill_normal_here(out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has these instructions, as `Instructions` guarantees.
            Kind::Avx2 => unsafe { self.fill_normal_avx2(out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx512 => unsafe { self.fill_normal_avx512(out) },
        }
    }

    /// Fills `out` with uniform numbers in [0, 1), two for each block.
    pub(crate) fn fill_uniform(self, out: &mut [[f64; 2]], instructions: Instructions) {
        match instructions.0 {
            Kind::Portable => self.fill_uniform_here(out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has these instructions, as `Instructions` guarantees.
            Kind::Avx2 => unsafe { self.fill_uniform_avx2(out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx512 => unsafe { self.fill_uniform_avx512(out) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn fill_normal_avx2(self, out: &mut [[f32; 4]]) {
        self.fill_normal_here(out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
    fn fill_normal_avx512(self, out: &mut [[f32; 4]]) {
        self.fill_normal_here(out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn fill_uniform_avx2(self, out: &mut [[f64; 2]]) {
        self.fill_uniform_here(out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
    fn fill_uniform_avx512(self, out: &mut [[f64; 2]]) {
        self.fill_uniform_here(out);
    }

    #[inline(always)]
    fn fill_normal_here(self, out: &mut [[f32; 4]]) {
        let mut draws = [[0; BLOCKS]; 4];
        let mut normal = [[0.0; BLOCKS]; 4];
        let mut first = self.first;
        for out in out.chunks_mut(BLOCKS) {
            self.draw(first, &mut draws);
            first = first.wrapping_add(BLOCKS as u64);
            let ([a, b, c, d], [e, f, g, h]) = (&draws, &mut normal);
            box_muller_of(a, b, e, f);
            box_muller_of(c, d, g, h);
            for (place, out) in out.iter_mut().enumerate() {
                *out = [e[place], f[place], g[place], h[place]];
            }
        }
    }

    #[inline(always)]
    fn fill_uniform_here(self, out: &mut [[f64; 2]]) {
        let mut draws = [[0; BLOCKS]; 4];
        let mut first = self.first;
        for out in out.chunks_mut(BLOCKS) {
            self.draw(first, &mut draws);
            first = first.wrapping_add(BLOCKS as u64);
            let [a, b, c, d] = &draws;
            for (place, out) in out.iter_mut().enumerate() {
                *out = [uniform(a[place], b[place]), uniform(c[place], d[place])];
            }
        }
    }

    /// Draws the blocks from the block `first` on.
    #[inline(always)]
    fn draw(self, first: u64, draws: &mut [[u32; BLOCKS]; 4]) {
        let [a, b, c, d] = draws;
        for place in 0..BLOCKS {
            [a[place], b[place], c[place], d[place]] = self.at(first.wrapping_add(place as u64));
        }
    }
}

/// Transforms pairs of draws to pairs of normal numbers.
#[inline(always)]
fn box_muller_of(radii: &[u32; BLOCKS], angles: &[u32; BLOCKS], first: &mut [f32; BLOCKS], second: &mut [f32; BLOCKS]) {
    for place in 0..BLOCKS {
        (first[place], second[place]) = box_muller(radii[place], angles[place]);
    }
}

/// Returns a uniform number in [0, 1) with 53 random bits, of draws of the low and the high 32 bits of 64.
#[inline(always)]
pub(crate) fn uniform(low: u32, high: u32) -> f64 {
    let bits = u64::from(low) | u64::from(high) << 32;
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Returns the random bits of one counter, by ten rounds of Philox.
#[inline(always)]
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
    fn all_instructions_have_the_same_bits() {
        // Numbers of blocks around those that are made at a time, and counters whose lower half overflows.
        for (count, first) in [(1, 0), (63, 7), (64, u64::from(u32::MAX) - 20), (2_000, 0), (130, u64::MAX - 70)] {
            for index in [0, 1, u64::MAX] {
                let blocks = Blocks { key: [0x1234_5678, 0xFEDC_BA98], index, first };
                let of = |instructions| {
                    let (mut normal, mut uniform) = (vec![[0.0; 4]; count], vec![[0.0; 2]; count]);
                    blocks.fill_normal(&mut normal, instructions);
                    blocks.fill_uniform(&mut uniform, instructions);
                    let normal: Vec<u32> = normal.iter().flatten().map(|value| value.to_bits()).collect();
                    (normal, uniform)
                };
                let all = Instructions::all();
                let portable = of(all[0]);
                for &instructions in &all {
                    assert!(of(instructions) == portable, "{} {count} {first} {index}", instructions.name());
                }
                let (normal, _) = portable;
                for (four, block) in normal.chunks_exact(4).zip(0..) {
                    let [a, b, c, d] = blocks.at(first.wrapping_add(block));
                    let ((e, f), (g, h)) = (box_muller(a, b), box_muller(c, d));
                    assert_eq!(four, [e, f, g, h].map(f32::to_bits), "block {block}");
                }
            }
        }
    }
}
