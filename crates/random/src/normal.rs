//! The Box-Muller transform in single precision.
//!
//! It only adds, subtracts, multiplies, takes square roots, converts integers and moves bits. IEEE 754 defines the result
//! of each of these, so that the transform has the same bits on every processor and in every vector width. Fused
//! multiplications and additions, which some processors lack, are not used.

/// 1/8 turn, as a draw of the angle.
const EIGHTH: u32 = 1 << 29;

/// The bits of the square root of 1/2.
const ROOT_OF_HALF: u32 = 0x3F35_04F3;
/// The bits of 1.
const ONE: u32 = 0x3F80_0000;

/// The first draw that is at least (1 - sqrt(1/2)) * 2^32.
const FAR_FROM_ONE: u32 = 1_257_966_797;

/// 2^-32 and 2^-30.
const TWO_TO_MINUS_32: f32 = 1.0 / 4_294_967_296.0;
const TWO_TO_MINUS_30: f32 = 1.0 / 1_073_741_824.0;

/// ln(2) in two parts. The product of the first with a small integer is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -0.000_212_194_44;

/// pi/2 in two parts.
const HALF_PI_HIGH: f32 = std::f32::consts::FRAC_PI_2;
const HALF_PI_LOW: f32 = -4.371_139e-8;

/// Returns two independent standard normal numbers for two draws of 32 uniform bits: r cos(a) and r sin(a), where
/// r = sqrt(-2 ln(1 - `radius` / 2^32)) and a = 2 pi `angle` / 2^32. Their relative errors are below 4e-7, their absolute
/// values at most 6.661.
#[inline(always)]
pub(crate) fn box_muller(radius: u32, angle: u32) -> (f32, f32) {
    let radius = (-2.0 * ln_of_rest(radius)).sqrt();
    let (sine, cosine) = sin_cos(angle);
    (radius * cosine, radius * sine)
}

/// Returns ln(1 - `draw` / 2^32), which is finite.
#[inline(always)]
fn ln_of_rest(draw: u32) -> f32 {
    // 1 - draw / 2^32 is 2^exponent * (1 + fraction), where 1 + fraction is in sqrt(1/2)..sqrt(2).
    // Small draws: the exponent is 0, and the fraction is computed from the draw, which loses no bits to 1.
    let near = -(draw.cast_signed() as f32 * TWO_TO_MINUS_32);
    let bits = (draw.wrapping_neg() as f32).to_bits().wrapping_add(ONE - ROOT_OF_HALF);
    let far = f32::from_bits((bits & 0x007F_FFFF) + ROOT_OF_HALF) - 1.0;
    let far_exponent = (bits >> 23).cast_signed() - (127 + 32);
    let is_near = draw < FAR_FROM_ONE;
    let fraction = if is_near { near } else { far };
    let exponent = if is_near { 0.0 } else { far_exponent as f32 };
    // ln(1 + x) = x - x^2/2 + x^3 p(x). The polynomial has the least largest relative error, 6e-9.
    let x = fraction;
    let p = -0.078_596_27;
    let p = p * x + 0.128_816_65;
    let p = p * x - 0.131_287_57;
    let p = p * x + 0.141_811_9;
    let p = p * x - 0.166_245_54;
    let p = p * x + 0.200_022_86;
    let p = p * x - 0.250_008_1;
    let p = p * x + 0.333_333_16;
    let square = x * x;
    let small = p * (square * x) + exponent * LN_2_LOW;
    (x - (0.5 * square - small)) + exponent * LN_2_HIGH
}

/// Returns the sine and the cosine of 2 pi `draw` / 2^32.
#[inline(always)]
fn sin_cos(draw: u32) -> (f32, f32) {
    let quarter = draw.wrapping_add(EIGHTH) >> 30;
    let rest = draw.wrapping_sub(quarter << 30).cast_signed();
    // In quarter turns, -1/2..1/2.
    let x = rest as f32 * TWO_TO_MINUS_30;
    let square = x * x;
    let p = -0.004_601_658;
    let p = p * square + 0.079_680_03;
    let p = p * square - 0.645_963_5;
    let sine = x * HALF_PI_HIGH + x * (p * square + HALF_PI_LOW);
    let p = 0.000_903_766_54;
    let p = p * square - 0.020_860_165;
    let p = p * square + 0.253_669_23;
    let p = p * square - 1.233_700_5;
    let cosine = p * square + 1.0;
    let is_odd = quarter & 1 == 1;
    let (of_sine, of_cosine) = if is_odd { (cosine, sine) } else { (sine, cosine) };
    // The sine is negative in the quarters 2 and 3, the cosine in 1 and 2.
    let sine = of_sine.to_bits() ^ (quarter & 2) << 30;
    let cosine = of_cosine.to_bits() ^ (quarter.wrapping_add(1) & 2) << 30;
    (f32::from_bits(sine), f32::from_bits(cosine))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws at which the transform takes another branch, their neighbors, and draws in between.
    fn draws() -> impl Iterator<Item = u32> {
        let edges = [0, EIGHTH, 1 << 30, 3 << 29, 1 << 31, 5 << 29, 3 << 30, 7 << 29, FAR_FROM_ONE];
        let around = edges.into_iter().flat_map(|edge| (-3..=3).map(move |step| edge.wrapping_add_signed(step)));
        let powers = (0..32).flat_map(|power| [1 << power, (1_u32 << power).wrapping_neg()]);
        around.chain(powers).chain((0..u32::MAX).step_by(4_099))
    }

    /// Fails if `value` is not `exact` up to a relative error.
    fn assert_near(value: f32, exact: f64, draw: u32) {
        // The sine and the cosine of double precision are no exact 0.
        let error = (f64::from(value) - exact).abs();
        assert!(error <= 2.2e-7 * exact.abs() + 1e-15, "{value} is not {exact}, draw {draw}");
    }

    #[test]
    fn radii_are_those_of_double_precision() {
        for draw in draws() {
            let exact = (-2.0 * (-f64::from(draw) / 4_294_967_296.0).ln_1p()).sqrt();
            // The angle 0 has the cosine 1.
            let (radius, zero) = box_muller(draw, 0);
            assert_near(radius, exact, draw);
            assert_eq!(zero, 0.0);
            assert!((0.0..6.661).contains(&radius), "{radius}");
        }
        assert!(box_muller(u32::MAX, 0).0 > 6.66);
    }

    #[test]
    fn angles_are_those_of_double_precision() {
        for draw in draws() {
            let (sine, cosine) = sin_cos(draw);
            // The angle in -pi..pi, so that double precision is precise near 0.
            let angle = f64::from(draw.cast_signed()) / 4_294_967_296.0 * std::f64::consts::TAU;
            assert_near(sine, angle.sin(), draw);
            assert_near(cosine, angle.cos(), draw);
        }
    }
}
