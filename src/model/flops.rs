//! Theoretical training speed: the paper's Table 7.

/// Peak of a V100 in half precision, in FLOP per second, as in Table 7.
pub const V100_FLOPS: f64 = 120e12;

/// The "theoretical" column of Table 7: training images per V100-second at full utilization. A step costs three forward
/// passes, because backward costs twice as much as forward.
#[must_use]
pub fn theoretical_images_per_v100_second(forward_flops: u64) -> f64 {
    V100_FLOPS / (3.0 * forward_flops as f64)
}
