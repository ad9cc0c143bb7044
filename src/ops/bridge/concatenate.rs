//! A concatenation with two consumers.

use std::ffi::c_int;

use tch::Tensor;
use torch_sys::C_tensor;

use super::status::check;
use crate::ops::Error;

unsafe extern "C" {
    fn admiral_concatenate_twice(first: *const C_tensor, second: *const C_tensor, results: *mut *mut C_tensor)
    -> c_int;
}

/// Concatenates `first` `[batch, a, height, width]` and `second` `[batch, b, height, width]` to `[batch, a + b, height,
/// width]`. Returns two tensors that share their memory: one for the residual branch and one for the skip connection.
/// Backward adds the gradients of both directly into contiguous or channels-last gradients of `first` and `second`.
///
/// The results must not be modified in place.
///
/// # Errors
/// If libtorch rejects the shapes or kinds: [`Error::Bridge`].
pub fn concatenate_twice(first: &Tensor, second: &Tensor) -> Result<[Tensor; 2], Error> {
    let mut results = [std::ptr::null_mut(); 2];
    // SAFETY: the tensors outlive the call, and `results` has room for both results.
    let status = unsafe { admiral_concatenate_twice(first.as_ptr(), second.as_ptr(), results.as_mut_ptr()) };
    check("concatenate_twice", status)?;
    // SAFETY: on success the bridge transfers the ownership of the tensors.
    Ok(results.map(|result| unsafe { Tensor::from_ptr(result) }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::{Device, Kind};

    use super::*;

    /// Returns two maps of 3 and 5 channels in the layout, which require gradients.
    fn parts(channels_last: bool) -> [Tensor; 2] {
        [3, 5].map(|channels| {
            let part = Tensor::randn([2, channels, 4, 6], (Kind::Double, Device::Cpu));
            let part = if channels_last { part.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]) } else { part };
            part.set_requires_grad(true)
        })
    }

    fn gradients_of(value: &Tensor, inputs: &[Tensor; 2]) -> Vec<Tensor> {
        let one = Tensor::from(1.0);
        super::super::gradients::gradients(value, &one, &[&inputs[0], &inputs[1]]).unwrap()
    }

    #[test]
    fn values_and_gradients_match_a_concatenation() {
        for channels_last in [false, true] {
            let parts = parts(channels_last);
            let [one, other] = concatenate_twice(&parts[0], &parts[1]).unwrap();
            let reference = Tensor::cat(&parts, 1);
            assert!(one.equal(&reference) && other.equal(&reference));
            assert_eq!(one.data_ptr(), other.data_ptr());
            // Only the first consumer, only the second, and both.
            let branches = |x: &Tensor, y: &Tensor| {
                [x.sin().sum(Kind::Double), y.exp().sum(Kind::Double), (x.sin() * 2.0 + y.exp()).sum(Kind::Double)]
            };
            for (found, expected) in branches(&one, &other).iter().zip(branches(&reference, &reference)) {
                let expected = gradients_of(&expected, &parts);
                for (found, expected) in gradients_of(found, &parts).iter().zip(expected) {
                    assert!(found.allclose(&expected, 1e-12, 1e-12, false));
                    // Without gaps, in the layout of the part.
                    let dense = if channels_last { found.permute([0, 2, 3, 1]) } else { found.shallow_clone() };
                    assert!(dense.is_contiguous(), "{:?}", found.stride());
                }
            }
        }
    }

    #[test]
    fn an_unused_branch_costs_nothing_in_backward() {
        let parts = parts(true);
        let [one, _] = concatenate_twice(&parts[0], &parts[1]).unwrap();
        let value = one.sin().sum(Kind::Double);
        let _lock = super::super::profile::PROFILER.lock();
        let (_, calls) = super::super::profile::profile(None, false, || gradients_of(&value, &parts)).unwrap();
        let count = |name: &str| calls.iter().filter(|calls| calls.name == name).map(|calls| calls.count).sum::<u64>();
        // No gradient of zeros is created and added.
        assert_eq!((count("aten::copy_"), count("aten::add")), (2, 0), "{calls:?}");
    }

    #[test]
    fn incompatible_shapes_are_refused() {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        for (first, second) in [(zeros(&[1, 2, 3, 3]), zeros(&[1, 2, 3, 4])), (zeros(&[1, 2]), zeros(&[1, 2]))] {
            let error = concatenate_twice(&first, &second).unwrap_err().to_string();
            assert!(error.starts_with("concatenate_twice: "), "{error}");
        }
    }
}
