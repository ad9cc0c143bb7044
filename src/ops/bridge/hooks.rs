//! Callbacks on gradients.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Tensor;
use torch_sys::C_tensor;

use super::status::check;
use crate::ops::Error;

unsafe extern "C" {
    fn admiral_on_gradient(
        parameter: *const C_tensor,
        context: *mut c_void,
        call: unsafe extern "C" fn(*mut c_void),
        drop: unsafe extern "C" fn(*mut c_void),
    ) -> c_int;
    fn admiral_watch_gradient(
        tensor: *const C_tensor,
        context: *mut c_void,
        call: unsafe extern "C" fn(*mut c_void, *mut C_tensor),
        drop: unsafe extern "C" fn(*mut c_void),
    ) -> c_int;
}

type Listener = Box<dyn Fn() + Send + Sync>;
type Watcher = Box<dyn Fn(&Tensor) + Send + Sync>;

/// Calls `listener` each time a backward pass has completed the gradient of the leaf `parameter`. The call is on the
/// autograd thread of the leaf's device. The listener replaces an earlier one and lives as long as the parameter.
///
/// # Errors
/// If the parameter is not a leaf that requires a gradient: [`Error::Bridge`].
pub fn on_gradient(parameter: &Tensor, listener: impl Fn() + Send + Sync + 'static) -> Result<(), Error> {
    let listener: Box<Listener> = Box::new(Box::new(listener));
    let context = Box::into_raw(listener).cast();
    // SAFETY: the tensor outlives the call. The bridge takes ownership of `context` and passes it only to the two
    // functions.
    check("on_gradient", unsafe { admiral_on_gradient(parameter.as_ptr(), context, call, drop_listener) })
}

unsafe extern "C" fn call(context: *mut c_void) {
    // SAFETY: `on_gradient` leaked this listener, and `drop_listener` has not freed it.
    let listener = unsafe { &*context.cast::<Listener>() };
    // A panic must not unwind into C++. The panic hook has already printed its message.
    if catch_unwind(AssertUnwindSafe(listener)).is_err() {
        std::process::abort();
    }
}

unsafe extern "C" fn drop_listener(context: *mut c_void) {
    // SAFETY: `on_gradient` leaked this listener, and this is its last use.
    drop(unsafe { Box::from_raw(context.cast::<Listener>()) });
}

/// Calls `watcher` with the gradient of `tensor` each time that a backward pass has computed it, before the operation that
/// made the tensor takes it. The call is on an autograd thread. A later operation in place does not change which values
/// the gradient is of. The watcher lives as long as the graph.
///
/// # Errors
/// If no graph is recorded for the tensor: [`Error::Bridge`].
pub fn watch_gradient(tensor: &Tensor, watcher: impl Fn(&Tensor) + Send + Sync + 'static) -> Result<(), Error> {
    let watcher: Box<Watcher> = Box::new(Box::new(watcher));
    let context = Box::into_raw(watcher).cast();
    // SAFETY: the tensor outlives the call. The bridge takes ownership of `context` and passes it only to the two
    // functions.
    check("watch_gradient", unsafe { admiral_watch_gradient(tensor.as_ptr(), context, call_watcher, drop_watcher) })
}

unsafe extern "C" fn call_watcher(context: *mut c_void, gradient: *mut C_tensor) {
    // SAFETY: `watch_gradient` leaked this watcher, and `drop_watcher` has not freed it. The caller transfers the tensor.
    let (watcher, gradient) = unsafe { (&*context.cast::<Watcher>(), Tensor::from_ptr(gradient)) };
    // A panic must not unwind into C++. The panic hook has already printed its message.
    if catch_unwind(AssertUnwindSafe(|| watcher(&gradient))).is_err() {
        std::process::abort();
    }
}

unsafe extern "C" fn drop_watcher(context: *mut c_void) {
    // SAFETY: `watch_gradient` leaked this watcher, and this is its last use.
    drop(unsafe { Box::from_raw(context.cast::<Watcher>()) });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tch::Kind;

    use super::*;

    #[test]
    fn a_listener_runs_once_a_pass_and_lives_as_long_as_the_parameter() {
        let calls = Arc::new(AtomicUsize::new(0));
        let parameter = Tensor::from_slice(&[3.0f32, -1.0]).set_requires_grad(true);
        let counted = Arc::clone(&calls);
        on_gradient(&parameter, move || {
            counted.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        for pass in 1..=2 {
            // The parameter is in the graph twice, but the hook runs once.
            (&parameter * &parameter).sum(Kind::Float).backward();
            assert_eq!(calls.load(Ordering::Relaxed), pass);
        }
        assert_eq!(Vec::<f32>::try_from(parameter.grad()).unwrap(), [12.0, -4.0]);
        drop(parameter);
        assert_eq!(Arc::strong_count(&calls), 1);
    }

    #[test]
    fn a_watcher_sees_the_gradient_of_the_values_before_an_operation_in_place() {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let parameter = Tensor::from_slice(&[3.0f32, -1.0]).set_requires_grad(true);
        let mut doubled = &parameter * 2.0;
        let noted = Arc::clone(&seen);
        let note = move |gradient: &Tensor| noted.lock().unwrap().push(Vec::<f32>::try_from(gradient).unwrap());
        watch_gradient(&doubled, note).unwrap();
        // The gradient of the product is 1, and that of its first factor is 5.
        (doubled.g_mul_scalar_(5.0)).sum(Kind::Float).backward();
        assert_eq!(*seen.lock().unwrap(), [vec![5.0, 5.0]]);
        drop(doubled);
        assert_eq!(Arc::strong_count(&seen), 1, "the watcher outlives its graph");
        let error = watch_gradient(&parameter.detach(), |_| {}).unwrap_err().to_string();
        assert!(error.starts_with("watch_gradient: "), "{error}");
    }

    #[test]
    fn tensors_that_are_not_leaves_are_refused() {
        let parameter = Tensor::from_slice(&[1.0f32]).set_requires_grad(true);
        let error = on_gradient(&(&parameter * 2), || {}).unwrap_err().to_string();
        assert!(error.starts_with("on_gradient: ") && error.contains("leaf"), "{error}");
    }
}
