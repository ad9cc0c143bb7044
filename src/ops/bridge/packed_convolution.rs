//! Convolutions for inference with weights in oneDNN's layout.

use std::ffi::c_int;

use tch::Tensor;
use torch_sys::C_tensor;

use super::status::check;
use crate::ops::Error;

unsafe extern "C" {
    fn admiral_pack_convolution(
        weight: *const C_tensor,
        stride: *const i64,
        padding: *const i64,
        map: *const i64,
        result: *mut *mut C_tensor,
    ) -> c_int;
    fn admiral_convolve_packed(
        x: *const C_tensor,
        packed: *const C_tensor,
        bias: *const C_tensor,
        stride: *const i64,
        padding: *const i64,
        relu: bool,
        result: *mut *mut C_tensor,
    ) -> c_int;
}

/// Converts weights for [`convolve_packed`] and maps of the size `map`. `None` if this libtorch has no oneDNN. The result
/// is an opaque tensor: it has no values that can be read.
pub(in crate::ops) fn pack_convolution(
    weight: &Tensor,
    stride: [i64; 2],
    padding: [i64; 2],
    map: [i64; 4],
) -> Result<Option<Tensor>, Error> {
    let mut result = std::ptr::null_mut();
    // SAFETY: the tensor is live, the arrays have 2, 2 and 4 values, and `result` is valid for writing.
    check("pack_convolution", unsafe {
        admiral_pack_convolution(weight.as_ptr(), stride.as_ptr(), padding.as_ptr(), map.as_ptr(), &mut result)
    })?;
    // SAFETY: on success the bridge transfers the ownership of the tensor, if there is one.
    Ok((!result.is_null()).then(|| unsafe { Tensor::from_ptr(result) }))
}

/// The convolution of a channels-last map with packed weights, plus bias, and ReLU if `relu` is set. It is not recorded
/// for backward.
pub(in crate::ops) fn convolve_packed(
    x: &Tensor,
    packed: &Tensor,
    bias: &Tensor,
    stride: [i64; 2],
    padding: [i64; 2],
    relu: bool,
) -> Result<Tensor, Error> {
    let mut result = std::ptr::null_mut();
    // SAFETY: the tensors are live, the arrays have 2 values each, and `result` is valid for writing.
    let status = unsafe {
        admiral_convolve_packed(
            x.as_ptr(),
            packed.as_ptr(),
            bias.as_ptr(),
            stride.as_ptr(),
            padding.as_ptr(),
            relu,
            &mut result,
        )
    };
    check("convolve_packed", status)?;
    // SAFETY: on success the bridge transfers the ownership of the tensor.
    Ok(unsafe { Tensor::from_ptr(result) })
}
