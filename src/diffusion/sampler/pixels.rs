//! Conversion of samples to bytes.

use tch::{Kind, Tensor};

/// Converts images in [-1, 1], `[batch, channels, height, width]`, to bytes, `[batch, height, width, channels]`:
/// (x + 1) * 127.5, clamped to 0..=255 and truncated.
pub fn to_bytes(images: &Tensor) -> Tensor {
    ((images + 1.0) * 127.5).clamp(0.0, 255.0).to_kind(Kind::Uint8).permute([0, 2, 3, 1]).contiguous()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_are_truncated_and_channels_come_last() {
        let images = Tensor::from_slice(&[-1.5f32, -1.0, 0.0, 0.999, 1.0, 3.0]).reshape([1, 3, 1, 2]);
        let bytes = to_bytes(&images);
        assert_eq!(bytes.size(), [1, 1, 2, 3]);
        assert_eq!(Vec::<u8>::try_from(bytes.flatten(0, -1)).unwrap(), [0, 127, 255, 0, 254, 255]);
    }
}
