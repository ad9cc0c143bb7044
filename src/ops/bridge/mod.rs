//! The Rust side of the C++ bridge: functions that tch does not offer. No C++ exception leaves the bridge;
//! what it caught comes back as [`Error::Bridge`].

use std::ffi::{CStr, c_char, c_int};

use tch::Tensor;
use torch_sys::C_tensor;

use super::Error;

unsafe extern "C" {
    fn admiral_last_error() -> *const c_char;
    fn admiral_set_gradient(parameter: *const C_tensor, gradient: *const C_tensor) -> c_int;
}

/// Turns a status of the bridge into a result. The message lies in storage of the calling thread.
fn check(operation: &'static str, status: c_int) -> Result<(), Error> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the bridge returns a NUL-terminated string that lives until this thread's next failing call.
    let message = unsafe { CStr::from_ptr(admiral_last_error()) }.to_string_lossy().into_owned();
    Err(Error::Bridge { operation, message })
}

/// Makes `gradient` the buffer into which backward accumulates for the leaf `parameter`.
///
/// Backward then adds in place, so gradients land in flat memory without a copy. The caller zeroes the buffer.
///
/// # Errors
/// [`Error::Bridge`] when libtorch refuses the pair (shape, kind or device differ).
pub fn set_gradient(parameter: &Tensor, gradient: &Tensor) -> Result<(), Error> {
    // SAFETY: both pointers are live tensors of tch for the length of the call.
    check("set_gradient", unsafe { admiral_set_gradient(parameter.as_ptr(), gradient.as_ptr()) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn backward_accumulates_into_the_buffer_it_was_given() {
        let flat = Tensor::zeros([4], (Kind::Float, Device::Cpu));
        let gradient = flat.narrow(0, 1, 2);
        let parameter = Tensor::from_slice(&[3.0f32, -1.0]).set_requires_grad(true);
        set_gradient(&parameter, &gradient).unwrap();
        for _ in 0..2 {
            (&parameter * &parameter).sum(Kind::Float).backward();
        }
        assert_eq!(Vec::<f32>::try_from(flat).unwrap(), [0.0, 12.0, -4.0, 0.0]);
    }

    #[test]
    fn a_gradient_of_another_shape_is_refused_with_a_message() {
        let parameter = Tensor::from_slice(&[3.0f32, -1.0]).set_requires_grad(true);
        let error = set_gradient(&parameter, &Tensor::from_slice(&[0.0f32])).unwrap_err();
        assert!(error.to_string().starts_with("set_gradient: "), "{error}");
    }
}
