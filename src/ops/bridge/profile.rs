//! What libtorch ran, by its own profiler.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::check;
use crate::ops::Error;

unsafe extern "C" {
    fn admiral_profile_begin(cuda: bool) -> c_int;
    fn admiral_profile_end(
        path: *const c_char,
        context: *mut c_void,
        tell: unsafe extern "C" fn(*mut c_void, *const c_char, i64, i64),
    ) -> c_int;
}

/// The calls of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// As libtorch names it: `aten::convolution`, or a kernel of a GPU.
    pub name: String,
    /// How often it was called.
    pub count: u64,
    /// What that took, with what it called.
    pub time: Duration,
}

/// Runs `body` under libtorch's profiler and returns what it returned with the calls of each operation, by name. The
/// events are written to `trace` as a Chrome trace (for `chrome://tracing` or Perfetto), where one is named. One
/// profile at a time.
///
/// # Errors
/// [`Error::Bridge`] when libtorch has no profiler, or another one runs, or the file cannot be written.
pub fn profile<T>(trace: Option<&Path>, cuda: bool, body: impl FnOnce() -> T) -> Result<(T, Vec<Calls>), Error> {
    let path = trace.map(|path| CString::new(path.as_os_str().as_bytes())).transpose();
    let path = path.map_err(|_| Error::Bridge { operation: "profile", message: "the path holds a zero".into() })?;
    // SAFETY: takes no pointer.
    check("profile", unsafe { admiral_profile_begin(cuda) })?;
    let outcome = body();
    let mut calls: Vec<Calls> = Vec::new();
    let at = path.as_ref().map_or(std::ptr::null(), |path| path.as_ptr());
    // SAFETY: the path is a C string or null; `calls` outlives the call, and nobody else touches it meanwhile.
    check("profile", unsafe { admiral_profile_end(at, (&raw mut calls).cast(), note) })?;
    Ok((outcome, calls))
}

unsafe extern "C" fn note(context: *mut c_void, name: *const c_char, count: i64, nanoseconds: i64) {
    // SAFETY: the list of `profile`, and a C string that lives for the length of the call.
    let (calls, name) = unsafe { (&mut *context.cast::<Vec<Calls>>(), CStr::from_ptr(name)) };
    calls.push(Calls {
        name: name.to_string_lossy().into_owned(),
        count: u64::try_from(count).unwrap_or(0),
        time: Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)),
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn operations_are_counted_and_traced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        let x = Tensor::ones([8, 8], (Kind::Float, Device::Cpu));
        let (product, calls) = profile(Some(&path), false, || x.matmul(&x).matmul(&x)).unwrap();
        assert_eq!(product.double_value(&[0, 0]), 64.0);
        let of = |name: &str| calls.iter().find(|calls| calls.name == name).map_or(0, |calls| calls.count);
        assert_eq!(of("aten::matmul"), 2, "{calls:?}");
        let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        assert!(events.iter().any(|event| event["name"] == "aten::matmul"));
    }
}
