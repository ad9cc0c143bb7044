//! The CPU kernels of flat memory, and the properties of all CPU kernels.

use std::ffi::{CStr, c_char, c_int, c_void};

use admiral_gpu::adam::AdamUpdate;
use tch::Kind;

use super::status::check;
use crate::ops::Error;

unsafe extern "C" {
    fn admiral_instruction_set() -> *const c_char;
    fn admiral_adam(
        memory: *const AdamMemory,
        update: *const AdamUpdate,
        averages: *const Average,
        num_averages: i64,
        length: i64,
    ) -> c_int;
    fn admiral_sum_of_squares(values: *const c_void, kind: i32, length: i64, result: *mut f64) -> c_int;
}

/// Returns the value of a kind in the C++ `Kind`, or `None` if the kernels do not support it.
pub(in crate::ops) fn kernel_kind(kind: Kind) -> Option<i32> {
    match kind {
        Kind::Float => Some(0),
        Kind::Half => Some(1),
        Kind::BFloat16 => Some(2),
        _ => None,
    }
}

/// The memory of one update. The same layout as `admiral::AdamMemory` in kernels.h.
#[repr(C)]
pub(in crate::ops) struct AdamMemory {
    pub(in crate::ops) master: *mut c_void,
    pub(in crate::ops) mean: *mut c_void,
    pub(in crate::ops) variance: *mut c_void,
    pub(in crate::ops) gradient: *const c_void,
    pub(in crate::ops) gradient_kind: i32,
    pub(in crate::ops) half: *mut c_void,
    pub(in crate::ops) half_kind: i32,
}

/// One EMA. The same layout as `AdmiralAverage` in flat.cpp.
#[repr(C)]
pub(in crate::ops) struct Average {
    pub(in crate::ops) ema: *mut c_void,
    pub(in crate::ops) rate: f32,
    pub(in crate::ops) rest: f32,
}

/// Returns the instruction set of the kernels for this CPU: `baseline`, `avx2`, `avx512` or `avx512_bf16`.
#[must_use]
pub fn instruction_set() -> &'static str {
    // SAFETY: the bridge returns a NUL-terminated ASCII literal.
    unsafe { CStr::from_ptr(admiral_instruction_set()) }.to_str().unwrap_or("unknown")
}

/// Runs the CPU kernel of the optimizer update.
///
/// # Safety
/// Every pointer of `memory` and `averages` must point to `length` values of its kind that no other code accesses.
pub(in crate::ops) unsafe fn adam(
    memory: &AdamMemory,
    update: &AdamUpdate,
    averages: &[Average],
    length: usize,
) -> Result<(), Error> {
    // SAFETY: guaranteed by the caller.
    let status = unsafe { admiral_adam(memory, update, averages.as_ptr(), averages.len() as i64, length as i64) };
    check("adam", status)
}

/// Runs the CPU kernel of the sum of squares.
///
/// # Safety
/// `values` must point to `length` values of the kind `kind`, as returned by [`kernel_kind`].
pub(in crate::ops) unsafe fn sum_of_squares(values: *const c_void, kind: i32, length: usize) -> Result<f64, Error> {
    let mut result = 0.0;
    // SAFETY: guaranteed by the caller.
    check("sum_of_squares", unsafe { admiral_sum_of_squares(values, kind, length as i64, &mut result) })?;
    Ok(result)
}
