//! Being told when the gradient of a parameter is complete.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Tensor;
use torch_sys::C_tensor;

use super::check;
use crate::ops::Error;

unsafe extern "C" {
    fn admiral_on_gradient(
        parameter: *const C_tensor,
        context: *mut c_void,
        call: unsafe extern "C" fn(*mut c_void),
        drop: unsafe extern "C" fn(*mut c_void),
    ) -> c_int;
}

type Listener = Box<dyn Fn() + Send + Sync>;

/// Calls `listener` whenever a backward pass has added to the gradient of the leaf `parameter`, once a pass, on the
/// thread that runs the pass on the leaf's device. It takes the place of an earlier listener, and lives as long as the
/// parameter.
///
/// # Errors
/// [`Error::Bridge`] when the parameter is no leaf that wants a gradient.
pub fn on_gradient(parameter: &Tensor, listener: impl Fn() + Send + Sync + 'static) -> Result<(), Error> {
    let listener: Box<Listener> = Box::new(Box::new(listener));
    let context = Box::into_raw(listener).cast();
    // SAFETY: the tensor lives for the length of the call; the bridge owns `context` from now on and gives it to the two
    // functions alone.
    check("on_gradient", unsafe { admiral_on_gradient(parameter.as_ptr(), context, call, drop_listener) })
}

unsafe extern "C" fn call(context: *mut c_void) {
    // SAFETY: a listener that `on_gradient` has leaked and `drop_listener` has not taken back.
    let listener = unsafe { &*context.cast::<Listener>() };
    // An unwinding listener would run into C++. What it has to say of its panic is printed by then.
    if catch_unwind(AssertUnwindSafe(listener)).is_err() {
        std::process::abort();
    }
}

unsafe extern "C" fn drop_listener(context: *mut c_void) {
    // SAFETY: the last word on a listener that `on_gradient` has leaked.
    drop(unsafe { Box::from_raw(context.cast::<Listener>()) });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tch::Kind;

    use super::*;

    #[test]
    fn a_listener_hears_once_a_pass_and_lives_as_long_as_the_parameter() {
        let calls = Arc::new(AtomicUsize::new(0));
        let parameter = Tensor::from_slice(&[3.0f32, -1.0]).set_requires_grad(true);
        let heard = Arc::clone(&calls);
        on_gradient(&parameter, move || {
            heard.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        for pass in 1..=2 {
            // Twice in the graph, once in its hook.
            (&parameter * &parameter).sum(Kind::Float).backward();
            assert_eq!(calls.load(Ordering::Relaxed), pass);
        }
        assert_eq!(Vec::<f32>::try_from(parameter.grad()).unwrap(), [12.0, -4.0]);
        drop(parameter);
        assert_eq!(Arc::strong_count(&calls), 1);
    }

    #[test]
    fn what_is_no_leaf_is_refused() {
        let parameter = Tensor::from_slice(&[1.0f32]).set_requires_grad(true);
        let error = on_gradient(&(&parameter * 2), || {}).unwrap_err().to_string();
        assert!(error.starts_with("on_gradient: ") && error.contains("leaf"), "{error}");
    }
}
