//! Rounding to half precision.

/// Returns the number of half precision (IEEE 754 binary16) that is nearest to `value`, in float32. Of two equally near
/// numbers, the one with an even last digit. Numbers from 65520 on become infinite, and NaN stays NaN.
///
/// There is no branch, so that loops over many values use vector instructions.
#[inline(always)]
pub(crate) fn round_to_half(value: f32) -> f32 {
    let bits = value.to_bits();
    let (sign, magnitude) = (bits & 0x8000_0000, (bits & 0x7FFF_FFFF) as i32);
    // Normal numbers of half precision have 13 digits fewer. A carry into the exponent gives the next power of two.
    let cut = (magnitude + 0x0FFF + ((magnitude >> 13) & 1)) & !0x1FFF;
    let normal = if cut > 0x477F_E000 { 0x7F80_0000 } else { cut };
    // Numbers below 2^-14 are multiples of 2^-24, the distance of the numbers of float32 from 0.5 on.
    let small = ((f32::from_bits(magnitude as u32) + 0.5) - 0.5).to_bits() as i32;
    let rounded = if magnitude < 0x3880_0000 { small } else { normal };
    let rounded = if magnitude > 0x7F80_0000 { magnitude } else { rounded };
    f32::from_bits(sign | rounded as u32)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn rounding_agrees_with_conversion_to_half_precision_and_back() {
        let same = |value: f32| {
            let (ours, expected) = (round_to_half(value), f16::from_f32(value).to_f32());
            assert!(ours.to_bits() == expected.to_bits() || (ours.is_nan() && expected.is_nan()), "{value:e}");
        };
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits).to_f32();
            same(value);
            // The point halfway to the next number, and its neighbors in float32.
            let next = f16::from_bits(bits.wrapping_add(1)).to_f32();
            let middle = 0.5 * value + 0.5 * next;
            [middle, middle.next_up(), middle.next_down()].into_iter().for_each(same);
        }
        [65519.996, 65520.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, -0.0].into_iter().for_each(same);
        assert!(round_to_half(-f32::NAN).is_nan());
    }
}
