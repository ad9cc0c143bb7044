//! Functions and properties of libtorch itself.

use std::ffi::{CStr, c_char, c_int};

use admiral_gpu::adam::AdamHyper;
use tch::Tensor;
use torch_sys::C_tensor;

use super::status::check;
use crate::ops::Error;

unsafe extern "C" {
    fn admiral_torch_built_with() -> *const c_char;
    fn admiral_torch_config(config: *mut *const c_char) -> c_int;
    fn admiral_allow_tf32(allow: bool) -> c_int;
    fn admiral_current_stream(device: i64, id: *mut i64) -> c_int;
    fn admiral_torch_fused_adamw(
        parameter: *const C_tensor,
        gradient: *const C_tensor,
        mean: *const C_tensor,
        variance: *const C_tensor,
        hyper: *const TorchAdamW,
    ) -> c_int;
}

/// The hyperparameters of libtorch's AdamW. The same layout as `admiral::TorchAdamW` in bridge.cpp.
#[repr(C)]
struct TorchAdamW {
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    step: f64,
}

/// Returns the version of the libtorch that this program was compiled with.
#[must_use]
pub fn torch_built_with() -> &'static str {
    // SAFETY: the bridge returns a NUL-terminated ASCII literal.
    unsafe { CStr::from_ptr(admiral_torch_built_with()) }.to_str().unwrap_or("unknown")
}

/// Returns the version of the loaded libtorch, or `None` if its configuration does not include one.
///
/// # Errors
/// If libtorch cannot show its configuration: [`Error::Bridge`].
pub fn torch_loaded() -> Result<Option<String>, Error> {
    let mut config = std::ptr::null();
    // SAFETY: `config` is valid for writing.
    check("torch_config", unsafe { admiral_torch_config(&mut config) })?;
    // SAFETY: on success it is a NUL-terminated string that is valid until the next call on this thread.
    let config = unsafe { CStr::from_ptr(config) }.to_string_lossy();
    let version = config.split_once("TORCH_VERSION=").map(|(_, rest)| rest);
    Ok(version.and_then(|rest| rest.split([',', ' ', '\n']).next()).map(str::to_owned))
}

/// Performs one update of float32 tensors with libtorch's fused AdamW, for comparison with [`crate::ops::adam`].
///
/// # Errors
/// If libtorch rejects the tensors: [`Error::Bridge`].
pub fn torch_fused_adamw(
    parameter: &Tensor,
    gradient: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
    hyper: &AdamHyper,
) -> Result<(), Error> {
    let AdamHyper { learning_rate, beta1, beta2, epsilon, weight_decay, step, gradient_scale: _ } = *hyper;
    let hyper = TorchAdamW { learning_rate, beta1, beta2, epsilon, weight_decay, step: step as f64 };
    // SAFETY: all pointers are live tensors, and `hyper` outlives the call.
    check("torch_fused_adamw", unsafe {
        admiral_torch_fused_adamw(parameter.as_ptr(), gradient.as_ptr(), mean.as_ptr(), variance.as_ptr(), &hyper)
    })
}

/// Sets whether float32 convolutions and matrix products on CUDA may round their inputs to the 10-bit mantissa of TF32.
/// libtorch's default allows it for convolutions. It has no effect on the CPU.
///
/// # Errors
/// If libtorch fails: [`Error::Bridge`].
pub fn allow_tf32(allow: bool) -> Result<(), Error> {
    // SAFETY: the function takes no pointers.
    check("allow_tf32", unsafe { admiral_allow_tf32(allow) })
}

/// Returns libtorch's ID of the current stream of this thread on a GPU. 0 is the default stream, CUDA's null stream.
///
/// # Errors
/// If libtorch has no CUDA or no such GPU: [`Error::Bridge`].
pub fn current_stream(ordinal: usize) -> Result<i64, Error> {
    let mut id = 0;
    // SAFETY: `id` is valid for writing.
    check("current_stream", unsafe { admiral_current_stream(ordinal as i64, &mut id) })?;
    Ok(id)
}
