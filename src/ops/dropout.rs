//! Dropout whose mask is a function of a seed. Backward computes the mask again, so it is not stored.

use tch::{Kind, Tensor};

use admiral_random::mix;

/// Zeroes values with a probability and multiplies the others by `1 / (1 - probability)`.
///
/// The mask depends on the seed, the index of the sample in the batch, and the index of the value in the sample as
/// `[channels, positions]`. It does not depend on the memory layout or on threads. The random bits are the integer hash
/// `lowbias32` of the index, with two keys of the sample mixed in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// The probability of a zero, in 0..1.
    pub probability: f64,
    /// The seed of the mask.
    pub seed: u64,
}

impl Dropout {
    /// Returns the factors 0 or `1 / (1 - probability)` of the values of `x` `[batch, channels, ...]`, float32, in the
    /// shape of `x`. Computed with libtorch's operations, for devices and kinds without a kernel.
    pub(super) fn mask(&self, x: &Tensor) -> Tensor {
        const LOW: i64 = 0xffff_ffff;
        let size = x.size();
        let batch = size.first().copied().unwrap_or_default();
        let keys: Vec<u64> = (0..batch).map(|sample| mix(self.seed ^ mix(sample.cast_unsigned()))).collect();
        let key = |bits: fn(u64) -> u64| {
            let keys: Vec<i64> = keys.iter().map(|&key| bits(key).cast_signed()).collect();
            Tensor::from_slice(&keys).to_device(x.device()).unsqueeze(1)
        };
        let index = Tensor::arange(size.iter().skip(1).product::<i64>(), (Kind::Int64, x.device())).unsqueeze(0);
        // Products of 32-bit numbers may overflow a signed 64-bit integer, but their low 32 bits are correct.
        let mut bits = index.bitwise_xor_tensor(&key(|key| key & 0xffff_ffff));
        bits = bits.bitwise_xor_tensor(&bits.bitwise_right_shift_tensor_scalar(16));
        bits = (bits * 0x7feb_352d).bitwise_and(LOW);
        bits = bits.bitwise_xor_tensor(&bits.bitwise_right_shift_tensor_scalar(15));
        bits = (bits + key(|key| key >> 32)).bitwise_and(LOW);
        bits = (bits * 0x846c_a68b_i64).bitwise_and(LOW);
        bits = bits.bitwise_xor_tensor(&bits.bitwise_right_shift_tensor_scalar(16));
        let below = (self.probability * 4_294_967_296.0).round().min(4_294_967_295.0) as i64;
        (bits.ge(below).to_kind(Kind::Float) * (1.0 / (1.0 - self.probability))).view(size.as_slice())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::Device;

    use super::*;

    /// Returns 1 for values that are kept and 0 for the others.
    fn kept(shape: &[i64], probability: f64, seed: u64) -> Tensor {
        let x = Tensor::zeros(shape, (Kind::BFloat16, Device::Cpu));
        Dropout { probability, seed }.mask(&x).gt(0.0).to_kind(Kind::Double)
    }

    fn mean(x: &Tensor) -> f64 {
        x.mean(Kind::Double).double_value(&[])
    }

    #[test]
    fn the_share_of_kept_values_and_their_scale_are_correct() {
        for probability in [0.1, 0.3, 0.5, 0.9] {
            let mask = kept(&[4, 64, 32, 32], probability, 3);
            let deviation = (probability * (1.0 - probability) / mask.numel() as f64).sqrt();
            assert!((mean(&mask) - (1.0 - probability)).abs() < 5.0 * deviation, "{probability}: {}", mean(&mask));
        }
        let x = Tensor::zeros([1, 2, 2], (Kind::Float, Device::Cpu));
        let values = Vec::<f32>::try_from(Dropout { probability: 0.2, seed: 1 }.mask(&x).flatten(0, -1)).unwrap();
        assert!(values.iter().all(|&value| value == 0.0 || value == 1.25), "{values:?}");
    }

    #[test]
    fn neighbours_channels_samples_and_seeds_are_independent() {
        let mask = kept(&[2, 64, 64, 64], 0.5, 9);
        let pairs = [
            ("columns", mask.narrow(3, 0, 63), mask.narrow(3, 1, 63)),
            ("rows", mask.narrow(2, 0, 63), mask.narrow(2, 1, 63)),
            ("channels", mask.narrow(1, 0, 63), mask.narrow(1, 1, 63)),
            ("samples", mask.narrow(0, 0, 1), mask.narrow(0, 1, 1)),
            ("seeds", mask.shallow_clone(), kept(&[2, 64, 64, 64], 0.5, 10)),
        ];
        for (name, a, b) in pairs {
            let both = mean(&(&a * &b));
            let deviation = (0.25 * 0.75 / a.numel() as f64).sqrt();
            assert!((both - 0.25).abs() < 5.0 * deviation, "{name}: {both}");
        }
    }
}
