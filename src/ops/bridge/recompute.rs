//! Activation checkpointing: a part of a network that is run again in backward instead of keeping what it computed.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Tensor;
use torch_sys::C_tensor;

use super::check;
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

/// `body(x, embedding)`, of which only `x` and `embedding` are kept: backward calls `body` again, with the graph that it
/// then needs, on a thread of autograd's. Gradients of leaves that `body` holds accumulate as they would without this.
///
/// `body` has to do the same each time, dropout masks included, and one of the inputs has to want a gradient.
///
/// # Errors
/// [`Error::Bridge`] when `body` panics, with what it said. In backward that is backward's error.
pub fn recompute(
    x: &Tensor,
    embedding: &Tensor,
    body: impl Fn(&Tensor, &Tensor) -> Tensor + Send + 'static,
) -> Result<Tensor, Error> {
    let body: Box<Body> = Box::new(Box::new(body));
    let mut result = std::ptr::null_mut();
    // SAFETY: the tensors live for the length of the call; the bridge owns `context` from now on and gives it to the two
    // functions alone, never at once.
    let status = unsafe {
        admiral_recompute(x.as_ptr(), embedding.as_ptr(), Box::into_raw(body).cast(), call, drop_body, &mut result)
    };
    check("recompute", status)?;
    // SAFETY: on success the bridge hands over a tensor that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(result) })
}

unsafe extern "C" fn call(
    context: *mut c_void,
    x: *mut C_tensor,
    embedding: *mut C_tensor,
    failure: *mut c_char,
    room: i64,
) -> *mut C_tensor {
    // SAFETY: a body that `recompute` has leaked and `drop_body` has not taken back, and two tensors that are handed
    // over.
    let (body, x, embedding) = unsafe { (&*context.cast::<Body>(), Tensor::from_ptr(x), Tensor::from_ptr(embedding)) };
    // No panic may run into C++.
    match catch_unwind(AssertUnwindSafe(|| body(&x, &embedding))) {
        Ok(y) => {
            // The tensor behind it is C++'s from here on.
            let y = std::mem::ManuallyDrop::new(y);
            y.as_ptr().cast_mut()
        }
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the body panicked");
            let length = said.len().min(usize::try_from(room).unwrap_or(0).saturating_sub(1));
            // SAFETY: `failure` has room for `room` bytes, all zero.
            unsafe { std::ptr::copy_nonoverlapping(said.as_ptr().cast(), failure, length) };
            std::ptr::null_mut()
        }
    }
}

unsafe extern "C" fn drop_body(context: *mut c_void) {
    // SAFETY: the last word on a body that `recompute` has leaked.
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
    fn gradients_are_those_without_it_and_nothing_is_kept() {
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
    fn a_body_that_fails_is_an_error() {
        let x = Tensor::ones([2, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let error = recompute(&x, &x, |x, _| x.matmul(x)).unwrap_err().to_string();
        assert!(error.starts_with("recompute: ") && error.contains("2x3"), "{error}");
    }
}
