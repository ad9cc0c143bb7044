//! Profiles of libtorch's operations, by libtorch's profiler.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::status::check;
use crate::ops::Error;

unsafe extern "C" {
    fn admiral_profile_begin(cuda: bool) -> c_int;
    fn admiral_profile_end(
        path: *const c_char,
        context: *mut c_void,
        report: unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char, i64, i64, i64),
    ) -> c_int;
}

/// The calls of one operation from one calling operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// The name in libtorch, such as `aten::convolution`, or the name of a GPU kernel.
    pub name: String,
    /// The calling operation, or an empty string if there is none. Operations that only wrap a copy
    /// (`aten::contiguous`, `aten::clone` and similar ones) are skipped.
    pub within: String,
    /// The number of calls.
    pub count: u64,
    /// The total time of the calls, including the operations that they called.
    pub time: Duration,
    /// The total number of elements of the first argument of each call.
    pub elements: u64,
}

/// Runs `body` under libtorch's profiler. Returns the result of `body` and the calls of each operation, ordered by
/// name. If `trace` is given, writes the events to it as a Chrome trace, for `chrome://tracing` or Perfetto. Only one
/// profile can run at a time.
///
/// # Errors
/// If libtorch has no profiler, another profile is running, or the trace was not written: [`Error::Bridge`]. In the
/// last case libtorch prints the reason to standard error.
pub fn profile<T>(trace: Option<&Path>, cuda: bool, body: impl FnOnce() -> T) -> Result<(T, Vec<Calls>), Error> {
    let path = trace.map(|path| CString::new(path.as_os_str().as_bytes())).transpose();
    let path = path.map_err(|_| Error::Bridge { operation: "profile", message: "the path holds a zero".into() })?;
    // SAFETY: the function takes no pointers.
    check("profile", unsafe { admiral_profile_begin(cuda) })?;
    let outcome = body();
    let mut calls: Vec<Calls> = Vec::new();
    let at = path.as_ref().map_or(std::ptr::null(), |path| path.as_ptr());
    // SAFETY: the path is a C string or null. `calls` outlives the call and has no other reference during it.
    check("profile", unsafe { admiral_profile_end(at, (&raw mut calls).cast(), add_calls) })?;
    if let Some(path) = trace
        && !std::fs::metadata(path).is_ok_and(|file| file.len() > 0)
    {
        let message = format!("no trace was written to {}", path.display());
        return Err(Error::Bridge { operation: "profile", message });
    }
    Ok((outcome, calls))
}

unsafe extern "C" fn add_calls(
    context: *mut c_void,
    name: *const c_char,
    within: *const c_char,
    count: i64,
    nanoseconds: i64,
    elements: i64,
) {
    // SAFETY: `context` is the list in `profile`, and the C strings outlive the call.
    let (calls, name, within) =
        unsafe { (&mut *context.cast::<Vec<Calls>>(), CStr::from_ptr(name), CStr::from_ptr(within)) };
    let unsigned = |number| u64::try_from(number).unwrap_or(0);
    calls.push(Calls {
        name: name.to_string_lossy().into_owned(),
        within: within.to_string_lossy().into_owned(),
        count: unsigned(count),
        time: Duration::from_nanos(unsigned(nanoseconds)),
        elements: unsigned(elements),
    });
}

/// Held by tests while they profile, because tests run in parallel.
#[cfg(test)]
pub(super) static PROFILER: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn operations_are_counted_and_traced() {
        let _lock = PROFILER.lock();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        let x = Tensor::ones([8, 8], (Kind::Float, Device::Cpu));
        let (product, calls) = profile(Some(&path), false, || x.matmul(&x).matmul(&x)).unwrap();
        assert_eq!(product.double_value(&[0, 0]), 64.0);
        let count = |name: &str| calls.iter().filter(|calls| calls.name == name).map(|calls| calls.count).sum::<u64>();
        assert_eq!((count("aten::matmul"), count("aten::copy_")), (2, 0), "{calls:?}");
        let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        assert!(events.iter().any(|event| event["name"] == "aten::matmul"));

        let (_, calls) = profile(None, false, || x.transpose(0, 1).contiguous().softmax(0, Kind::Float)).unwrap();
        let copies: Vec<_> = calls.iter().filter(|calls| calls.name == "aten::copy_").collect();
        assert_eq!(
            copies.iter().map(|calls| (calls.within.as_str(), calls.count, calls.elements)).collect::<Vec<_>>(),
            [("", 1, 64)]
        );
        let error = profile(Some(Path::new("/nonexistent/trace.json")), false, || ()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/trace.json"), "{error}");
    }
}
