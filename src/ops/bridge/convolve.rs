//! The convolution of weights that lie in flat memory.

use std::ffi::c_int;

use tch::Tensor;
use torch_sys::C_tensor;

use super::check;
use crate::ops::Error;

unsafe extern "C" {
    fn admiral_convolve_suits(x: *const C_tensor, weight: *const C_tensor) -> bool;
    #[cfg(test)]
    fn admiral_convolve_is_winograd(x: *const C_tensor, weight: *const C_tensor, stride: i64, padding: i64) -> bool;
    fn admiral_convolve(
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        stride: i64,
        padding: i64,
        result: *mut *mut C_tensor,
    ) -> c_int;
}

/// Whether [`convolve`] takes these, with something to gain.
pub(in crate::ops) fn convolve_suits(x: &Tensor, weight: &Tensor) -> bool {
    // SAFETY: both are live tensors of tch.
    unsafe { admiral_convolve_suits(x.as_ptr(), weight.as_ptr()) }
}

/// Whether [`convolve`] takes Winograd's way.
#[cfg(test)]
pub(in crate::ops) fn is_winograd(x: &Tensor, weight: &Tensor, stride: i64, padding: i64) -> bool {
    // SAFETY: both are live tensors of tch.
    unsafe { admiral_convolve_is_winograd(x.as_ptr(), weight.as_ptr(), stride, padding) }
}

/// The node on the CPU, for what [`convolve_suits`].
pub(in crate::ops) fn convolve(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: i64,
    padding: i64,
) -> Result<Tensor, Error> {
    let mut result = std::ptr::null_mut();
    // SAFETY: all are live tensors of tch, and there is a place for the result.
    let status = unsafe { admiral_convolve(x.as_ptr(), weight.as_ptr(), bias.as_ptr(), stride, padding, &mut result) };
    check("convolve", status)?;
    // SAFETY: on success the bridge hands over a tensor that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(result) })
}
