//! What a network costs in theory: the paper's Table 7.

/// Peak of a V100 in half precision, FLOP a second, as Table 7 has it.
pub const V100_FLOPS: f64 = 120e12;

/// The "theoretical" column of Table 7: training images a V100-second, when a step costs three forward passes
/// (backward is twice forward) and nothing is lost.
#[must_use]
pub fn theoretical_images_per_v100_second(forward_flops: u64) -> f64 {
    V100_FLOPS / (3.0 * forward_flops as f64)
}
