//! Random numbers, and the bytes of values of every type.

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::sync::OnceLock;

use admiral_gpu::Kind;

const SEED: &str = "ADMIRAL_TEST_SEED";

/// Returns the random seed of this process. It differs between processes, so that kernels are tested with new inputs
/// each time; `ADMIRAL_TEST_SEED` sets it.
fn process_seed() -> u64 {
    static DRAWN: OnceLock<u64> = OnceLock::new();
    *DRAWN.get_or_init(|| {
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED}={text} is not a number from 0 to 2^64 - 1")),
            Err(_) => RandomState::new().hash_one(0),
        };
        // Not with a macro, because the test harness captures the output of macros.
        let line = format!("random inputs: {SEED}={seed} repeats them\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        seed
    })
}

/// A small random number generator (xorshift64*).
pub struct Random(u64);

impl Random {
    /// Returns a generator whose numbers differ between processes, and between values of `purpose`.
    pub fn fresh(purpose: u64) -> Self {
        let mut random = Self::new(process_seed() ^ purpose.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        // The first numbers of similar seeds are similar.
        for _ in 0..8 {
            random.bits();
        }
        random
    }

    /// Returns a generator with a fixed seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Returns 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Returns a uniform number in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns an approximately normal number: the sum of twelve uniform numbers.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// Returns `length` approximately normal numbers.
    pub fn normals(&mut self, length: usize) -> Vec<f64> {
        (0..length).map(|_| self.normal()).collect()
    }
}

/// Returns the number of significant bits, and the exponent of the smallest positive value.
fn precision(kind: Kind) -> (i32, i32) {
    match kind {
        Kind::Float => (24, -149),
        Kind::Half => (11, -24),
        Kind::BFloat16 => (8, -133),
    }
}

/// Rounds to the nearest value of a type, ties to even. Values beyond the largest become infinity.
pub fn rounded(kind: Kind, value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let (bits, smallest) = precision(kind);
    // value = m * 2^e with 0.5 <= m < 1.
    let mut exponent = value.abs().log2().floor() as i32 + 1;
    if value.abs() >= 2f64.powi(exponent) {
        exponent += 1;
    } else if value.abs() < 2f64.powi(exponent - 1) {
        exponent -= 1;
    }
    let unit = 2f64.powi((exponent - bits).max(smallest));
    let nearest = (value / unit).round_ties_even() * unit;
    let largest = match kind {
        Kind::Float => f64::from(f32::MAX),
        Kind::Half => 65504.0,
        Kind::BFloat16 => f64::from(f32::from_bits(0x7f7f_0000)),
    };
    if nearest.abs() > largest { nearest.signum() * f64::INFINITY } else { nearest }
}

/// Returns half the distance between consecutive values of a type near `value`.
pub fn half_ulp(kind: Kind, value: f64) -> f64 {
    let (bits, smallest) = precision(kind);
    let exponent = if value == 0.0 { -200 } else { value.abs().log2().floor() as i32 + 1 };
    2f64.powi((exponent - bits).max(smallest) - 1)
}

fn half_bits(value: f64) -> u16 {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    if value.is_nan() {
        return 0x7e00;
    }
    let magnitude = rounded(Kind::Half, value).abs();
    if magnitude.is_infinite() {
        return sign | 0x7c00;
    }
    // The bits of positive half-precision values have the order of the values, so a binary search finds them.
    let (mut low, mut high) = (0u16, 0x7bff);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if half_value(middle) <= magnitude {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    sign | low
}

fn half_value(bits: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let magnitude = match exponent {
        31 if mantissa != 0.0 => f64::NAN,
        31 => f64::INFINITY,
        0 => mantissa * 2f64.powi(-24),
        _ => (1024.0 + mantissa) * 2f64.powi(exponent - 25),
    };
    if bits & 0x8000 != 0 { -magnitude } else { magnitude }
}

/// Returns the bytes of values in memory, each rounded to the type.
pub fn to_bytes(kind: Kind, values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&value| match kind {
            Kind::Float => (value as f32).to_le_bytes().to_vec(),
            Kind::Half => half_bits(value).to_le_bytes().to_vec(),
            Kind::BFloat16 => (((rounded(kind, value) as f32).to_bits() >> 16) as u16).to_le_bytes().to_vec(),
        })
        .collect()
}

/// Returns the values of bytes in memory.
pub fn from_bytes(kind: Kind, bytes: &[u8]) -> Vec<f64> {
    match kind {
        Kind::Float => bytes
            .chunks_exact(4)
            .map(|word| f64::from(f32::from_le_bytes([word[0], word[1], word[2], word[3]])))
            .collect(),
        Kind::Half => bytes.chunks_exact(2).map(|word| half_value(u16::from_le_bytes([word[0], word[1]]))).collect(),
        Kind::BFloat16 => bytes
            .chunks_exact(2)
            .map(|word| f64::from(f32::from_bits(u32::from(u16::from_le_bytes([word[0], word[1]])) << 16)))
            .collect(),
    }
}
