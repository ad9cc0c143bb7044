//! The two passes of a resize: over the columns of each row, and over the rows. Where the processor has AVX2, the loops
//! use it. All forms have the same bits, because they sum the same integers.

use super::buffers::Buffers;
use super::pixels::{Lines, Pixels};
use super::windows::{PRECISION_BITS, Windows};

/// One half, with the fractional bits of the weights.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Rounds a fixed-point sum to a pixel. The sum already includes one half.
fn round(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// The rounded mean. With two weights of one half, the sum in fixed point rounds to the same.
fn mean(a: u8, b: u8) -> u8 {
    ((u16::from(a) + u16::from(b) + 1) >> 1) as u8
}

/// The instructions that the loops may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instructions {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Instructions {
    /// Returns the best that this processor has.
    fn of_this_processor() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            return Self::Avx2;
        }
        Self::Portable
    }
}

/// Changes the width to that of the windows.
pub(crate) fn horizontal(lines: Lines<'_>, windows: &Windows, buffers: &mut Buffers) -> Pixels {
    horizontal_with(lines, windows, buffers, Instructions::of_this_processor())
}

fn horizontal_with(lines: Lines<'_>, windows: &Windows, buffers: &mut Buffers, instructions: Instructions) -> Pixels {
    let (width, channels) = (windows.firsts.len(), lines.channels);
    let values = width * channels;
    // One value more than the image has: the fast loops write 4 values for a pixel of 3.
    let mut bytes = buffers.take(values * lines.height + 1);
    match (instructions, channels) {
        #[cfg(target_arch = "x86_64")]
        (Instructions::Avx2, 3) => {
            let pairs = avx2::Pairs::new(windows);
            let mut row = 0;
            while row < lines.height {
                let source = &lines.bytes[row * lines.stride..];
                let out = &mut bytes[row * values..];
                // SAFETY: the processor has AVX2.
                let (rows, done) = unsafe {
                    if !windows.is_half && lines.height - row >= avx2::ROWS {
                        (avx2::ROWS, avx2::horizontal_rows(source, lines.stride, windows, &pairs, out))
                    } else {
                        (1, avx2::horizontal_row(source, windows, &pairs, out))
                    }
                };
                for (row, out) in out.chunks_exact_mut(values.max(1)).take(rows).enumerate() {
                    horizontal_row::<3>(&source[row * lines.stride..], windows, done, &mut out[done * 3..]);
                }
                row += rows;
            }
        }
        _ => {
            for (row, out) in bytes.chunks_exact_mut(values.max(1)).take(lines.height).enumerate() {
                match channels {
                    1 => horizontal_row::<1>(lines.row(row), windows, 0, out),
                    _ => horizontal_row::<3>(lines.row(row), windows, 0, out),
                }
            }
        }
    }
    bytes.truncate(values * lines.height);
    Pixels { width, height: lines.height, channels, bytes }
}

/// Computes the pixels of a row from the pixel `start` on.
fn horizontal_row<const CHANNELS: usize>(row: &[u8], windows: &Windows, start: usize, out: &mut [u8]) {
    let of_windows = windows.firsts.iter().zip(&windows.counts).zip(windows.weights.chunks_exact(windows.stride));
    for (((&first, &count), weights), out) in of_windows.skip(start).zip(out.chunks_exact_mut(CHANNELS)) {
        let mut sums = [HALF; CHANNELS];
        let pixels = row[first * CHANNELS..].chunks_exact(CHANNELS);
        for (pixel, &weight) in pixels.zip(&weights[..count]) {
            for channel in 0..CHANNELS {
                sums[channel] += i32::from(pixel[channel]) * weight;
            }
        }
        out.copy_from_slice(&sums.map(round));
    }
}

/// Changes the height to that of the windows.
pub(crate) fn vertical(lines: Lines<'_>, windows: &Windows, buffers: &mut Buffers) -> Pixels {
    vertical_with(lines, windows, buffers, Instructions::of_this_processor())
}

fn vertical_with(lines: Lines<'_>, windows: &Windows, buffers: &mut Buffers, instructions: Instructions) -> Pixels {
    let height = windows.firsts.len();
    let values = lines.width * lines.channels;
    let mut bytes = buffers.take(height * values);
    match instructions {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has AVX2.
        Instructions::Avx2 => unsafe { avx2::vertical(lines, windows, &mut bytes) },
        Instructions::Portable => vertical_rows(lines, windows, &mut bytes),
    }
    Pixels { width: lines.width, height, channels: lines.channels, bytes }
}

/// The number of values of a row that are summed at a time. Their sums stay in registers.
const BLOCK: usize = 32;

#[inline(always)]
fn vertical_rows(lines: Lines<'_>, windows: &Windows, bytes: &mut [u8]) {
    let values = lines.width * lines.channels;
    let of_windows = windows.firsts.iter().zip(&windows.counts).zip(windows.weights.chunks_exact(windows.stride));
    for (((&first, &count), weights), out) in of_windows.zip(bytes.chunks_exact_mut(values.max(1))) {
        if windows.is_half {
            let (upper, lower) = (lines.row(first), lines.row(first + 1));
            out.iter_mut().zip(upper.iter().zip(lower)).for_each(|(out, (&a, &b))| *out = mean(a, b));
            continue;
        }
        let source = &lines.bytes[first * lines.stride..];
        let weights = &weights[..count];
        let whole = values - values % BLOCK;
        for place in (0..whole).step_by(BLOCK) {
            let mut sums = [HALF; BLOCK];
            for (row, &weight) in weights.iter().enumerate() {
                let row = &source[row * lines.stride + place..][..BLOCK];
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (out, &sum) in out[place..place + BLOCK].iter_mut().zip(&sums) {
                *out = round(sum);
            }
        }
        let mut sums = [HALF; BLOCK];
        for (row, &weight) in weights.iter().enumerate() {
            let row = &source[row * lines.stride + whole..][..values - whole];
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        for (out, &sum) in out[whole..].iter_mut().zip(&sums) {
            *out = round(sum);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128i, _mm_avg_epu8, _mm_cvtsi128_si64, _mm_loadu_si128, _mm_or_si128, _mm_setr_epi8, _mm_shuffle_epi8,
        _mm_storeu_si128, _mm256_add_epi32, _mm256_blend_epi32, _mm256_broadcastsi128_si256, _mm256_castsi256_si128,
        _mm256_extracti128_si256, _mm256_madd_epi16, _mm256_packs_epi32, _mm256_packus_epi16,
        _mm256_permute2x128_si256, _mm256_set1_epi32, _mm256_setr_epi8, _mm256_setr_epi32, _mm256_setzero_si256,
        _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srai_epi32,
    };

    use super::{HALF, Lines, PRECISION_BITS, Windows, vertical_rows};

    /// The number of low bits of a weight that are multiplied apart from its high bits. Both parts have 16 bits with a
    /// sign.
    const LOW_BITS: u32 = 11;

    /// The order of the bytes of the first pair of 16-bit numbers, and the distance to that of the next pair.
    const LOW: i32 = 0x0302_0100;
    const NEXT: i32 = 0x0404_0404;

    /// The weights of windows, 4 at a time, for products of pairs of 16-bit numbers.
    pub(super) struct Pairs {
        /// For each 4 weights: the low parts, then the high parts.
        parts: Vec<[i16; 8]>,
        /// The number of elements of `parts` for a window.
        per_window: usize,
        /// Whether all high parts fit. For the filters here they do.
        fit: bool,
    }

    impl Pairs {
        pub(super) fn new(windows: &Windows) -> Self {
            let most = windows.counts.iter().copied().max().unwrap_or(0);
            let per_window = most.div_ceil(4);
            if windows.is_half {
                return Self { parts: Vec::new(), per_window, fit: true };
            }
            let mut fit = true;
            let mut parts = Vec::with_capacity(windows.firsts.len() * per_window);
            for weights in windows.weights.chunks_exact(windows.stride) {
                for four in weights.chunks_exact(4).take(per_window) {
                    let four: [i32; 4] = std::array::from_fn(|index| four[index]);
                    fit &= four.iter().all(|&weight| i16::try_from(weight >> LOW_BITS).is_ok());
                    parts.push(std::array::from_fn(|index| match index {
                        0..4 => (four[index] & ((1 << LOW_BITS) - 1)) as i16,
                        _ => (four[index - 4] >> LOW_BITS) as i16,
                    }));
                }
            }
            Self { parts, per_window, fit }
        }
    }

    #[target_feature(enable = "avx2")]
    fn load16(bytes: &[u8; 16]) -> __m128i {
        // SAFETY: there are 16 bytes.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    /// The number of rows that are summed together. They share the weights.
    pub(super) const ROWS: usize = 4;

    /// Returns how many windows have all the bytes of their groups of 4 pixels inside `source`.
    fn within(source: &[u8], windows: &Windows, pairs: &Pairs) -> usize {
        // The last 16 bytes begin at the window's last group of 4 pixels.
        let reach = if pairs.per_window == 0 { 0 } else { (pairs.per_window - 1) * 12 + 16 };
        windows.firsts.partition_point(|first| first * 3 + reach <= source.len())
    }

    /// Computes the first pixels of a row of 3 channels: those whose 16 bytes are inside `source`. Returns their number.
    #[target_feature(enable = "avx2")]
    pub(super) fn horizontal_row(source: &[u8], windows: &Windows, pairs: &Pairs, out: &mut [u8]) -> usize {
        if windows.is_half {
            return halve_row(source, windows, out);
        }
        if !pairs.fit {
            return 0;
        }
        // A fourth value is written behind the last pixel.
        let num = within(source, windows, pairs).min(out.len().saturating_sub(1) / 3);
        // SAFETY: all groups of these windows are inside the row, and 4 values have room for each pixel of the result.
        unsafe { sum_groups([source], &windows.firsts[..num], pairs, [out]) };
        num
    }

    /// Computes the first pixels of [`ROWS`] rows of 3 channels, which begin `stride` bytes apart in `source`. Returns the
    /// number of pixels of each.
    ///
    /// # Panics
    /// If `source` or `out` has fewer rows.
    #[target_feature(enable = "avx2")]
    pub(super) fn horizontal_rows(
        source: &[u8],
        stride: usize,
        windows: &Windows,
        pairs: &Pairs,
        out: &mut [u8],
    ) -> usize {
        let width = windows.firsts.len();
        if !pairs.fit || width == 0 {
            return 0;
        }
        let last = &source[(ROWS - 1) * stride..];
        // The fourth value behind the last pixel of a row would be the first value of the next row, which has been
        // written.
        let num = within(last, windows, pairs).min(width - 1);
        let (first, rest) = out.split_at_mut(width * 3);
        let (second, rest) = rest.split_at_mut(width * 3);
        let (third, rest) = rest.split_at_mut(width * 3);
        let outs = [first, second, third, &mut rest[..width * 3]];
        let sources = std::array::from_fn(|row| &source[row * stride..]);
        // SAFETY: all groups of these windows are inside the last row, whose source is the shortest, and the last pixel of
        // each row of the result is not written.
        unsafe { sum_groups::<ROWS>(sources, &windows.firsts[..num], pairs, outs) };
        num
    }

    /// Calls [`sum_windows`], compiled for the usual numbers of groups.
    ///
    /// # Safety
    /// See there.
    #[target_feature(enable = "avx2")]
    unsafe fn sum_groups<const N: usize>(sources: [&[u8]; N], firsts: &[usize], pairs: &Pairs, outs: [&mut [u8]; N]) {
        // SAFETY: the caller guarantees it.
        unsafe {
            match pairs.per_window {
                1 => sum_windows::<1, N>(sources, firsts, pairs, outs),
                2 => sum_windows::<2, N>(sources, firsts, pairs, outs),
                3 => sum_windows::<3, N>(sources, firsts, pairs, outs),
                _ => sum_windows::<0, N>(sources, firsts, pairs, outs),
            }
        }
    }

    /// Writes the sums of the windows that begin at `firsts`, for `N` rows, 1 or 4. `GROUPS` is the number of groups of 4
    /// weights of a window, or 0 for any number.
    ///
    /// # Safety
    /// In each row of `sources`, 4 bytes more than the pixels of all groups of each window must follow its first pixel. Each
    /// row of `outs` must have one value more than the pixels that are written.
    #[target_feature(enable = "avx2")]
    unsafe fn sum_windows<const GROUPS: usize, const N: usize>(
        sources: [&[u8]; N],
        firsts: &[usize],
        pairs: &Pairs,
        mut outs: [&mut [u8]; N],
    ) {
        // For each two pixels: both reds, both greens, both blues, each as 16 bits; and 4 bytes without a meaning.
        let order = _mm256_setr_epi8(
            0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, //
            6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
        );
        // The first two weights in the lower half, the last two in the upper half, of the low parts and of the high parts.
        let low_order = _mm256_setr_epi32(LOW, LOW, LOW, LOW, LOW + NEXT, LOW + NEXT, LOW + NEXT, LOW + NEXT);
        let high_order = _mm256_add_epi32(low_order, _mm256_set1_epi32(2 * NEXT));
        // The two halves of a sum are added at the end.
        let rounding = _mm256_setr_epi32(HALF, HALF, HALF, HALF, 0, 0, 0, 0);
        let groups = if GROUPS == 0 { pairs.per_window } else { GROUPS };
        for (position, (&first, parts)) in firsts.iter().zip(pairs.parts.chunks_exact(groups.max(1))).enumerate() {
            let mut low = [rounding; N];
            let mut high = [_mm256_setzero_si256(); N];
            for (group, weights) in parts[..groups].iter().enumerate() {
                // SAFETY: there are 16 bytes.
                let weights = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(weights.as_ptr().cast()) });
                let low_weights = _mm256_shuffle_epi8(weights, low_order);
                let high_weights = _mm256_shuffle_epi8(weights, high_order);
                for row in 0..N {
                    // SAFETY: the caller guarantees these 16 bytes.
                    let pixels = unsafe { _mm_loadu_si128(sources[row].as_ptr().add(first * 3 + group * 12).cast()) };
                    let pixels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(pixels), order);
                    low[row] = _mm256_add_epi32(low[row], _mm256_madd_epi16(pixels, low_weights));
                    high[row] = _mm256_add_epi32(high[row], _mm256_madd_epi16(pixels, high_weights));
                }
            }
            for row in 0..N {
                low[row] = _mm256_add_epi32(_mm256_slli_epi32::<{ LOW_BITS as i32 }>(high[row]), low[row]);
            }
            // For each two rows: the sum of both halves of the first, and that of the second.
            for row in (0..N).step_by(2) {
                let (first, second) = (low[row], low[(row + 1) % N]);
                let halves = _mm256_blend_epi32::<0xF0>(first, second);
                let others = _mm256_permute2x128_si256::<0x21>(first, second);
                low[row] = _mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(_mm256_add_epi32(halves, others));
            }
            // The two packs clamp to 0 and 255. A sum of 32 bits without the fractional bits fits into 16 bits.
            let words = _mm256_packs_epi32(low[0], low[2 % N]);
            let bytes = _mm256_packus_epi16(words, words);
            // Rows 0 and 2 are in the lower half, rows 1 and 3 in the upper half.
            let even = _mm_cvtsi128_si64(_mm256_castsi256_si128(bytes));
            let odd = _mm_cvtsi128_si64(_mm256_extracti128_si256::<1>(bytes));
            let fours = [even, odd, even >> 32, odd >> 32];
            for (out, four) in outs.iter_mut().zip(fours) {
                // SAFETY: the caller guarantees room for 4 values.
                unsafe { out.as_mut_ptr().add(position * 3).cast::<i32>().write_unaligned((four as i32).to_le()) };
            }
        }
    }

    /// Computes the means of neighboring pixels of a row, 4 at a time. Returns the number of means.
    #[target_feature(enable = "avx2")]
    fn halve_row(source: &[u8], windows: &Windows, out: &mut [u8]) -> usize {
        let first = windows.firsts.first().copied().unwrap_or(0);
        let none = -1;
        let even = _mm_setr_epi8(0, 1, 2, 6, 7, 8, none, none, none, none, none, none, none, none, none, none);
        let odd = _mm_setr_epi8(3, 4, 5, 9, 10, 11, none, none, none, none, none, none, none, none, none, none);
        let upper_even = _mm_setr_epi8(none, none, none, none, none, none, 0, 1, 2, 6, 7, 8, none, none, none, none);
        let upper_odd = _mm_setr_epi8(none, none, none, none, none, none, 3, 4, 5, 9, 10, 11, none, none, none, none);
        let mut done = 0;
        let mut place = first * 3;
        // 8 pixels become 4. The second 16 bytes begin at the fifth pixel.
        while done + 4 <= windows.firsts.len() {
            let (Some(lower), Some(upper)) = (
                source.get(place..).and_then(<[u8]>::first_chunk),
                source.get(place + 12..).and_then(<[u8]>::first_chunk),
            ) else {
                break;
            };
            let Some(out) = out.get_mut(done * 3..).and_then(<[u8]>::first_chunk_mut::<16>) else { break };
            let (lower, upper) = (load16(lower), load16(upper));
            let evens = _mm_or_si128(_mm_shuffle_epi8(lower, even), _mm_shuffle_epi8(upper, upper_even));
            let odds = _mm_or_si128(_mm_shuffle_epi8(lower, odd), _mm_shuffle_epi8(upper, upper_odd));
            // SAFETY: there are 16 bytes.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_avg_epu8(evens, odds)) };
            place += 24;
            done += 4;
        }
        done
    }

    /// The rows of the other form, compiled for AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) fn vertical(lines: Lines<'_>, windows: &Windows, bytes: &mut [u8]) {
        vertical_rows(lines, windows, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resample::resize;
    use crate::windows::Filter;

    /// An image of pseudo-random values.
    fn noise(width: usize, height: usize, channels: usize) -> Pixels {
        let mut state = 12345_u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Extreme values make overshoot and clamping likely.
            match state >> 30 {
                0 => 0,
                1 => 255,
                _ => (state >> 16) as u8,
            }
        };
        let bytes = std::iter::repeat_with(next).take(width * height * channels).collect();
        Pixels { width, height, channels, bytes }
    }

    #[test]
    fn all_instructions_have_the_same_bits() {
        let sizes = [(1, 1), (2, 2), (5, 3), (17, 9), (64, 40), (97, 31), (200, 7)];
        for channels in [1, 3] {
            for (width, height) in sizes {
                let image = noise(width, height, channels);
                let lines = Lines::all(&image);
                for filter in [Filter::Box, Filter::Bicubic] {
                    for (old, new) in sizes.iter().flat_map(|&(new, _)| [(width, new), (height, new)]) {
                        let windows = Windows::new(old, new, 0..new, filter);
                        let with = |instructions| {
                            // Every value must be written, whatever the memory had before.
                            let used = || {
                                let mut buffers = Buffers::default();
                                let bytes = vec![99; 3 * 200 * 200];
                                buffers.keep(Pixels { width: 200, height: 200, channels: 3, bytes });
                                buffers
                            };
                            let across =
                                (old == width).then(|| horizontal_with(lines, &windows, &mut used(), instructions));
                            let down = (old == height)
                                .then(|| vertical_with(lines, &windows, &mut Buffers::default(), instructions));
                            (across, down)
                        };
                        let best = with(Instructions::of_this_processor());
                        assert_eq!(best, with(Instructions::Portable), "{channels} {width} x {height} to {new}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_mean_of_two_is_the_sum_in_fixed_point() {
        for (a, b) in [(0, 0), (0, 1), (1, 2), (254, 255), (255, 255), (7, 200)] {
            let weight = 1 << (PRECISION_BITS - 1);
            assert_eq!(mean(a, b), round(HALF + i32::from(a) * weight + i32::from(b) * weight));
        }
        let halved = resize(&noise(8, 2, 3), 4, 1, Filter::Box);
        assert_eq!((halved.width, halved.height, halved.bytes.len()), (4, 1, 12));
    }
}
