//! Norms of flat memory.

use tch::{Device, Kind, Tensor};

use super::bridge;

/// The sum of squares of a flat tensor of any floating kind, accumulated in float64 in an order that does not depend
/// on the number of threads. A NaN or infinity among the values gives NaN or infinity.
#[must_use]
pub fn sum_of_squares(tensor: &Tensor) -> f64 {
    let _no_grad = tch::no_grad_guard();
    let flat = tensor.reshape([-1]).contiguous();
    if let (Device::Cpu, Some(kind)) = (flat.device(), bridge::kernel_kind(flat.kind())) {
        // SAFETY: `flat` is contiguous CPU memory of that kind, alive for the call.
        if let Ok(sum) = unsafe { bridge::sum_of_squares(flat.data_ptr(), kind, flat.numel()) } {
            return sum;
        }
    }
    flat.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The bridge's unit of summation, so that the tests span several.
    const CHUNK: i64 = 65_536;

    #[test]
    fn sums_in_double_precision_over_several_chunks() {
        let n = 3 * CHUNK + 7;
        let x = Tensor::full([n], 0.1f32 as f64, (Kind::Float, Device::Cpu));
        let wanted = n as f64 * (0.1f32 as f64).powi(2);
        assert!((sum_of_squares(&x) / wanted - 1.0).abs() < 1e-12);
        let half = x.to_kind(Kind::Half);
        let wanted = n as f64 * half.double_value(&[0]).powi(2);
        assert!((sum_of_squares(&half) / wanted - 1.0).abs() < 1e-12);
        assert_eq!(sum_of_squares(&Tensor::zeros([0], (Kind::Float, Device::Cpu))), 0.0);
    }

    #[test]
    fn does_not_depend_on_the_number_of_threads() {
        tch::manual_seed(3);
        let x = Tensor::randn([5 * CHUNK + 3], (Kind::Float, Device::Cpu));
        let threads = tch::get_num_threads();
        tch::set_num_threads(1);
        let one = sum_of_squares(&x);
        tch::set_num_threads(3);
        let three = sum_of_squares(&x);
        tch::set_num_threads(threads);
        assert_eq!(one.to_bits(), three.to_bits());
    }

    #[test]
    fn what_is_not_finite_stays_visible() {
        let mut values = vec![1.0f32; 20_000];
        values[17_000] = f32::INFINITY;
        assert_eq!(sum_of_squares(&Tensor::from_slice(&values)), f64::INFINITY);
        values[3] = f32::NAN;
        assert!(sum_of_squares(&Tensor::from_slice(&values)).is_nan());
    }
}
