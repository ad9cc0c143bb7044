//! Interpolation between two images on the arc that the paper's appendix F uses.

use tch::{Device, Tensor};

/// Returns cos(θ) a + sin(θ) b, where `thetas` has the angle of each row of `a` and `b`: 0 is a, π/2 is b.
///
/// The rows are noise, which keeps its variance on this arc, or rows of the class embedding. `a`, `b` and the result
/// have the shape `[batch, ...]`.
///
/// # Panics
/// If the number of angles is not the batch, or the shapes differ.
pub fn interpolate(thetas: &[f64], a: &Tensor, b: &Tensor) -> Tensor {
    assert_eq!(a.size(), b.size(), "shapes of the ends");
    let mut shape = vec![1; a.dim()];
    shape[0] = thetas.len() as i64;
    let [cosine, sine] = arc(thetas, a.device()).map(|weights| weights.view(shape.as_slice()));
    cosine * a + sine * b
}

/// Returns the cosines and sines of the angles, each `[batch]`, float32.
pub(super) fn arc(thetas: &[f64], device: Device) -> [Tensor; 2] {
    [f64::cos, f64::sin].map(|weight| {
        let weights: Vec<f32> = thetas.iter().map(|&theta| weight(theta) as f32).collect();
        Tensor::from_slice(&weights).to_device(device)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::f64::consts::{FRAC_PI_2, FRAC_PI_4};

    use super::*;

    #[test]
    fn each_row_has_its_angle() {
        let a = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([3, 2]);
        let b = Tensor::from_slice(&[-1.0f32, 0.0, 1.0, 2.0, 0.0, 2.0]).view([3, 2]);
        let rows = interpolate(&[0.0, FRAC_PI_2, FRAC_PI_4], &a, &b);
        let half = 0.5f32.sqrt();
        let expected = Tensor::from_slice(&[1.0, 2.0, 1.0, 2.0, 5.0 * half, 8.0 * half]).view([3, 2]);
        assert!(rows.allclose(&expected, 1e-6, 1e-6, false), "{rows:?}");
    }
}
