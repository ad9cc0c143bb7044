//! Activation checkpointing: backward recomputes a part of the network instead of reading saved activations.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Tensor;
use torch_sys::C_tensor;

use super::status::check;
use crate::ops::Error;

unsafe extern "C" {
    fn admiral_recompute(
        x: *const C_tensor,
        embedding: *const C_tensor,
        context: *mut c_void,
        call: unsafe extern "C" fn(*mut c_void, *mut C_tensor, *mut C_tensor, *mut c_char, i64) -> *mut C_tensor,
        drop: unsafe extern "C" fn(*mut c_void),
        result: *mut *mut C_tensor,
    ) -> c_int;
}

type Body = Box<dyn Fn(&Tensor, &Tensor) -> Tensor + Send>;

/// Computes `body(x, embedding)` and saves only `x` and `embedding` for backward. Backward calls `body` again on an
/// autograd thread, this time recording its graph. Gradients of leaves that `body` holds accumulate as usual.
///
/// `body` must compute the same each time, including dropout masks. At least one of the inputs must require a gradient.
///
/// # Errors
/// If `body` panics: [`Error::Bridge`] with the panic message. A panic during backward is an error of backward.
pub fn recompute(
    x: &Tensor,
    embedding: &Tensor,
    body: impl Fn(&Tensor, &Tensor) -> Tensor + Send + 'static,
) -> Result<Tensor, Error> {
    let body: Box<Body> = Box::new(Box::new(body));
    let mut result = std::ptr::null_mut();
    // SAFETY: the tensors outlive the call. The bridge takes ownership of `context` and passes it only to the two
    // functions, never concurrently.
    let status = unsafe {
        admiral_recompute(x.as_ptr(), embedding.as_ptr(), Box::into_raw(body).cast(), call, drop_body, &mut result)
    };
    check("recompute", status)?;
    // SAFETY: on success the bridge transfers the ownership of the tensor.
    Ok(unsafe { Tensor::from_ptr(result) })
}

unsafe extern "C" fn call(
    context: *mut c_void,
    x: *mut C_tensor,
    embedding: *mut C_tensor,
    failure: *mut c_char,
    capacity: i64,
) -> *mut C_tensor {
    // SAFETY: `recompute` leaked this body, and `drop_body` has not freed it. The caller transfers both tensors.
    let (body, x, embedding) = unsafe { (&*context.cast::<Body>(), Tensor::from_ptr(x), Tensor::from_ptr(embedding)) };
    // A panic must not unwind into C++.
    match catch_unwind(AssertUnwindSafe(|| body(&x, &embedding))) {
        Ok(y) => {
            // C++ takes ownership of the tensor.
            let y = std::mem::ManuallyDrop::new(y);
            y.as_ptr().cast_mut()
        }
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the body panicked");
            let length = message.len().min(usize::try_from(capacity).unwrap_or(0).saturating_sub(1));
            // SAFETY: `failure` has `capacity` bytes, all zero, so the message remains NUL-terminated.
            unsafe { std::ptr::copy_nonoverlapping(message.as_ptr().cast(), failure, length) };
            std::ptr::null_mut()
        }
    }
}

unsafe extern "C" fn drop_body(context: *mut c_void) {
    // SAFETY: `recompute` leaked this body, and this is its last use.
    drop(unsafe { Box::from_raw(context.cast::<Body>()) });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn gradients_match_and_the_body_is_freed() {
        tch::manual_seed(3);
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (x, embedding, weight) = (random(&[4, 6]), random(&[4, 6]), random(&[6, 6]));
        let block = |x: &Tensor, embedding: &Tensor, weight: &Tensor| (x.matmul(weight) + embedding).silu() + x;
        let run = |recomputed: bool| {
            let leaf = |tensor: &Tensor| tensor.detach().copy().set_requires_grad(true);
            let (x, embedding, weight) = (leaf(&x), leaf(&embedding), leaf(&weight));
            let calls = Arc::new(AtomicUsize::new(0));
            let y = if recomputed {
                let (held, counted) = (weight.shallow_clone(), Arc::clone(&calls));
                recompute(&(&x * 2), &embedding, move |x, embedding| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    block(x, embedding, &held)
                })
                .unwrap()
            } else {
                block(&(&x * 2), &embedding, &weight)
            };
            y.square().sum(Kind::Float).backward();
            drop(y);
            assert_eq!(calls.load(Ordering::Relaxed), if recomputed { 2 } else { 0 });
            assert_eq!(Arc::strong_count(&calls), 1, "the body outlives its graph");
            [x.grad(), embedding.grad(), weight.grad()]
        };
        for (with, without) in run(true).iter().zip(run(false)) {
            assert!(with.equal(&without));
        }
    }

    #[test]
    fn a_panic_of_the_body_is_an_error() {
        let x = Tensor::ones([2, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let error = recompute(&x, &x, |x, _| x.matmul(x)).unwrap_err().to_string();
        assert!(error.starts_with("recompute: ") && error.contains("2x3"), "{error}");
    }
}
