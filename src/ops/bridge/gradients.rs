//! Gradients of leaves and of any tensors.

use std::ffi::c_int;

use tch::Tensor;
use torch_sys::C_tensor;

use super::status::check;
use crate::ops::Error;

unsafe extern "C" {
    fn admiral_set_gradient(parameter: *const C_tensor, gradient: *const C_tensor) -> c_int;
    fn admiral_gradients(
        output: *const C_tensor,
        output_gradient: *const C_tensor,
        inputs: *const *const C_tensor,
        num_inputs: i64,
        results: *mut *mut C_tensor,
    ) -> c_int;
}

/// Sets `gradient` as the buffer into which backward accumulates the gradient of the leaf `parameter`. Both have the same
/// shape.
///
/// Backward adds in place, so gradients are accumulated in flat memory without a copy. The caller zeroes the buffer.
///
/// # Errors
/// If the shapes, kinds or devices differ, or `parameter` is not a leaf: [`Error::Bridge`].
pub fn set_gradient(parameter: &Tensor, gradient: &Tensor) -> Result<(), Error> {
    // SAFETY: both pointers are live tensors during the call.
    check("set_gradient", unsafe { admiral_set_gradient(parameter.as_ptr(), gradient.as_ptr()) })
}

/// Computes the gradients of `inputs` from the gradient `output_gradient` of `output`. Does not accumulate into leaves.
/// Each result has the shape of its input.
///
/// # Errors
/// If the graph of `output` does not include all `inputs`, or backward fails: [`Error::Bridge`].
pub fn gradients(output: &Tensor, output_gradient: &Tensor, inputs: &[&Tensor]) -> Result<Vec<Tensor>, Error> {
    let leaves: Vec<*const C_tensor> = inputs.iter().map(|input| input.as_ptr()).collect();
    let mut results = vec![std::ptr::null_mut(); inputs.len()];
    // SAFETY: all pointers are live tensors, and `results` has room for each result.
    let status = unsafe {
        let (output, output_gradient) = (output.as_ptr(), output_gradient.as_ptr());
        admiral_gradients(output, output_gradient, leaves.as_ptr(), leaves.len() as i64, results.as_mut_ptr())
    };
    check("gradients", status)?;
    // SAFETY: on success the bridge transfers the ownership of the tensors.
    Ok(results.into_iter().map(|result| unsafe { Tensor::from_ptr(result) }).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn backward_accumulates_into_the_given_buffer() {
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
    fn gradients_are_returned_and_not_accumulated() {
        let x = Tensor::from_slice(&[3.0f32, -1.0]).set_requires_grad(true);
        let y = Tensor::from_slice(&[2.0f32, 5.0]).set_requires_grad(true);
        let found = gradients(&(&x * &x * &y), &Tensor::from_slice(&[1.0f32, 10.0]), &[&x, &y]).unwrap();
        assert_eq!(Vec::<f32>::try_from(&found[0]).unwrap(), [12.0, -100.0]);
        assert_eq!(Vec::<f32>::try_from(&found[1]).unwrap(), [9.0, 10.0]);
        assert!(!x.grad().defined());
        let error = gradients(&(&x * 2.0), &x.detach(), &[&y]).unwrap_err().to_string();
        assert!(error.starts_with("gradients: "), "{error}");
    }

    #[test]
    fn a_gradient_of_another_shape_is_refused() {
        let parameter = Tensor::from_slice(&[3.0f32, -1.0]).set_requires_grad(true);
        let error = set_gradient(&parameter, &Tensor::from_slice(&[0.0f32])).unwrap_err();
        assert!(error.to_string().starts_with("set_gradient: "), "{error}");
    }
}
