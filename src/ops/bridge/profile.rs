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
        tell: unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char, i64, i64, i64),
    ) -> c_int;
}

/// The calls of one operation within one other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// As libtorch names it: `aten::convolution`, or a kernel of a GPU.
    pub name: String,
    /// The operation around it, other than the mere ways to a copy (`aten::contiguous`, `aten::clone` and their like);
    /// empty where there is none.
    pub within: String,
    /// How often it was called.
    pub count: u64,
    /// What that took, with what it called.
    pub time: Duration,
    /// Elements of the first tensors that it was called with, all calls together.
    pub elements: u64,
}

/// Runs `body` under libtorch's profiler and returns what it returned with the calls of each operation, by name. The
/// events are written to `trace` as a Chrome trace (for `chrome://tracing` or Perfetto), where one is named. One
/// profile at a time.
///
/// # Errors
/// [`Error::Bridge`] when libtorch has no profiler, or another one runs, or the trace was not written: what the system
/// said of it then stands in libtorch's own line on standard error.
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
    if let Some(path) = trace
        && !std::fs::metadata(path).is_ok_and(|file| file.len() > 0)
    {
        let message = format!("no trace was written to {}", path.display());
        return Err(Error::Bridge { operation: "profile", message });
    }
    Ok((outcome, calls))
}

unsafe extern "C" fn note(
    context: *mut c_void,
    name: *const c_char,
    within: *const c_char,
    count: i64,
    nanoseconds: i64,
    elements: i64,
) {
    // SAFETY: the list of `profile`, and C strings that live for the length of the call.
    let (calls, name, within) =
        unsafe { (&mut *context.cast::<Vec<Calls>>(), CStr::from_ptr(name), CStr::from_ptr(within)) };
    let natural = |number| u64::try_from(number).unwrap_or(0);
    calls.push(Calls {
        name: name.to_string_lossy().into_owned(),
        within: within.to_string_lossy().into_owned(),
        count: natural(count),
        time: Duration::from_nanos(natural(nanoseconds)),
        elements: natural(elements),
    });
}

/// For tests, which run side by side: whoever profiles holds it.
#[cfg(test)]
pub(super) static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn operations_are_counted_and_traced() {
        let _turn = ONE_AT_A_TIME.lock();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        let x = Tensor::ones([8, 8], (Kind::Float, Device::Cpu));
        let (product, calls) = profile(Some(&path), false, || x.matmul(&x).matmul(&x)).unwrap();
        assert_eq!(product.double_value(&[0, 0]), 64.0);
        let of = |name: &str| calls.iter().filter(|calls| calls.name == name).map(|calls| calls.count).sum::<u64>();
        assert_eq!((of("aten::matmul"), of("aten::copy_")), (2, 0), "{calls:?}");
        let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        assert!(events.iter().any(|event| event["name"] == "aten::matmul"));

        let (_, calls) = profile(None, false, || x.transpose(0, 1).contiguous().softmax(0, Kind::Float)).unwrap();
        let copies: Vec<_> = calls.iter().filter(|calls| calls.name == "aten::copy_").collect();
        assert_eq!(
            copies.iter().map(|of| (of.within.as_str(), of.count, of.elements)).collect::<Vec<_>>(),
            [("", 1, 64)]
        );
        let error = profile(Some(Path::new("/nonexistent/trace.json")), false, || ()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/trace.json"), "{error}");
    }
}
