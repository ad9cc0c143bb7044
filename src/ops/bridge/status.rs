//! Conversion of the status codes of the bridge.

use std::ffi::{CStr, c_char, c_int};

use crate::ops::Error;

unsafe extern "C" {
    fn admiral_last_error() -> *const c_char;
}

/// Converts a status of the bridge to a result. The error message is in storage of the calling thread.
pub(super) fn check(operation: &'static str, status: c_int) -> Result<(), Error> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the bridge returns a NUL-terminated string that is valid until the next failing call on this thread.
    let message = unsafe { CStr::from_ptr(admiral_last_error()) }.to_string_lossy().into_owned();
    Err(Error::Bridge { operation, message })
}
