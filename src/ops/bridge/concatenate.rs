//! A concatenation that two branches read.

use std::ffi::c_int;

use tch::Tensor;
use torch_sys::C_tensor;

use super::check;
use crate::ops::Error;

unsafe extern "C" {
    fn admiral_concatenate_twice(first: *const C_tensor, second: *const C_tensor, results: *mut *mut C_tensor)
    -> c_int;
}

/// `first` `[batch, a, height, width]` and `second` `[batch, b, height, width]` to `[batch, a + b, height, width]`, as
/// two tensors that share their values: one for each of two branches that read it. Backward adds the branches' gradients
/// straight into dense gradients of `first` and `second`.
///
/// Neither result may be changed in place.
///
/// # Errors
/// [`Error::Bridge`] when libtorch refuses the shapes or kinds.
pub fn concatenate_twice(first: &Tensor, second: &Tensor) -> Result<[Tensor; 2], Error> {
    let mut results = [std::ptr::null_mut(); 2];
    // SAFETY: the tensors live for the length of the call, and there is a place for each result.
    let status = unsafe { admiral_concatenate_twice(first.as_ptr(), second.as_ptr(), results.as_mut_ptr()) };
    check("concatenate_twice", status)?;
    // SAFETY: on success the bridge hands over tensors that nobody else owns.
    Ok(results.map(|result| unsafe { Tensor::from_ptr(result) }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::{Device, Kind};

    use super::*;

    /// Two maps of 3 and 5 channels, in the layout asked for, that want gradients.
    fn parts(channels_last: bool) -> [Tensor; 2] {
        [3, 5].map(|channels| {
            let part = Tensor::randn([2, channels, 4, 6], (Kind::Double, Device::Cpu));
            let part = if channels_last { part.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]) } else { part };
            part.set_requires_grad(true)
        })
    }

    fn gradients_of(value: &Tensor, of: &[Tensor; 2]) -> Vec<Tensor> {
        let one = Tensor::from(1.0);
        super::super::gradients(value, &one, &[&of[0], &of[1]]).unwrap()
    }

    #[test]
    fn values_and_gradients_are_those_of_a_concatenation() {
        for channels_last in [false, true] {
            let parts = parts(channels_last);
            let [one, other] = concatenate_twice(&parts[0], &parts[1]).unwrap();
            let whole = Tensor::cat(&parts, 1);
            assert!(one.equal(&whole) && other.equal(&whole));
            assert_eq!(one.data_ptr(), other.data_ptr());
            // One branch, the other, and both.
            let branches = |x: &Tensor, y: &Tensor| {
                [x.sin().sum(Kind::Double), y.exp().sum(Kind::Double), (x.sin() * 2.0 + y.exp()).sum(Kind::Double)]
            };
            for (own, theirs) in branches(&one, &other).iter().zip(branches(&whole, &whole)) {
                let expected = gradients_of(&theirs, &parts);
                for (found, expected) in gradients_of(own, &parts).iter().zip(expected) {
                    assert!(found.allclose(&expected, 1e-12, 1e-12, false));
                    // Dense, as the part lies.
                    let dense = if channels_last { found.permute([0, 2, 3, 1]) } else { found.shallow_clone() };
                    assert!(dense.is_contiguous(), "{:?}", found.stride());
                }
            }
        }
    }

    #[test]
    fn a_branch_that_nobody_took_costs_nothing_backward() {
        let parts = parts(true);
        let [one, _] = concatenate_twice(&parts[0], &parts[1]).unwrap();
        let value = one.sin().sum(Kind::Double);
        let _turn = super::super::profile::ONE_AT_A_TIME.lock();
        let (_, calls) = super::super::profile(None, false, || gradients_of(&value, &parts)).unwrap();
        let count = |name: &str| calls.iter().filter(|calls| calls.name == name).map(|calls| calls.count).sum::<u64>();
        // Nothing is added to zeros.
        assert_eq!((count("aten::copy_"), count("aten::add")), (2, 0), "{calls:?}");
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let of = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        for (first, second) in [(of(&[1, 2, 3, 3]), of(&[1, 2, 3, 4])), (of(&[1, 2]), of(&[1, 2]))] {
            let error = concatenate_twice(&first, &second).unwrap_err().to_string();
            assert!(error.starts_with("concatenate_twice: "), "{error}");
        }
    }
}
