//! The convolution of channels-last maps with contiguous weights on the CPU.

use std::ffi::c_int;

use tch::Tensor;
use torch_sys::C_tensor;

use super::status::check;
use crate::ops::Error;

unsafe extern "C" {
    fn admiral_can_convolve(x: *const C_tensor, weight: *const C_tensor) -> bool;
    fn admiral_convolve_uses_winograd(x: *const C_tensor, weight: *const C_tensor, stride: i64, padding: i64) -> bool;
    fn admiral_convolve(
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        stride: i64,
        padding: i64,
        result: *mut *mut C_tensor,
    ) -> c_int;
    fn admiral_transform_weights(weight: *const C_tensor, result: *mut *mut C_tensor) -> c_int;
    fn admiral_convolve_transformed(
        x: *const C_tensor,
        transformed: *const C_tensor,
        bias: *const C_tensor,
        result: *mut *mut C_tensor,
    ) -> c_int;
}

/// Whether [`convolve`] supports these tensors and is faster than libtorch.
pub(in crate::ops) fn can_convolve(x: &Tensor, weight: &Tensor) -> bool {
    // SAFETY: both pointers are live tensors.
    unsafe { admiral_can_convolve(x.as_ptr(), weight.as_ptr()) }
}

/// Whether [`convolve`] uses Winograd's algorithm.
pub(in crate::ops) fn uses_winograd(x: &Tensor, weight: &Tensor, stride: i64, padding: i64) -> bool {
    // SAFETY: both pointers are live tensors.
    unsafe { admiral_convolve_uses_winograd(x.as_ptr(), weight.as_ptr(), stride, padding) }
}

/// The autograd node on the CPU, for tensors that [`can_convolve`] accepts. Shapes as in [`crate::ops::conv2d`].
pub(in crate::ops) fn convolve(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: i64,
    padding: i64,
) -> Result<Tensor, Error> {
    let mut result = std::ptr::null_mut();
    // SAFETY: all pointers are live tensors, and `result` is valid for writing.
    let status = unsafe { admiral_convolve(x.as_ptr(), weight.as_ptr(), bias.as_ptr(), stride, padding, &mut result) };
    check("convolve", status)?;
    // SAFETY: on success the bridge transfers the ownership of the tensor.
    Ok(unsafe { Tensor::from_ptr(result) })
}

/// Transforms weights for [`convolve_transformed`]. `None` if no convolution with these weights uses them.
pub(in crate::ops) fn transform_weights(weight: &Tensor) -> Result<Option<Tensor>, Error> {
    let mut result = std::ptr::null_mut();
    // SAFETY: the pointer is a live tensor, and `result` is valid for writing.
    check("transform_weights", unsafe { admiral_transform_weights(weight.as_ptr(), &mut result) })?;
    // SAFETY: on success the bridge transfers the ownership of the tensor, if there is one.
    Ok((!result.is_null()).then(|| unsafe { Tensor::from_ptr(result) }))
}

/// The convolution with stride 1 and padding 1 with transformed weights, where [`uses_winograd`] is true. It is not recorded
/// for backward.
pub(in crate::ops) fn convolve_transformed(x: &Tensor, transformed: &Tensor, bias: &Tensor) -> Result<Tensor, Error> {
    let mut result = std::ptr::null_mut();
    // SAFETY: all pointers are live tensors, and `result` is valid for writing.
    let status = unsafe { admiral_convolve_transformed(x.as_ptr(), transformed.as_ptr(), bias.as_ptr(), &mut result) };
    check("convolve_transformed", status)?;
    // SAFETY: on success the bridge transfers the ownership of the tensor.
    Ok(unsafe { Tensor::from_ptr(result) })
}
