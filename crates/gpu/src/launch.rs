//! The interface for launching kernels, and the checks of their arguments.

use std::ffi::c_void;

use crate::driver::DriverError;
use crate::nvrtc::CompileError;
use crate::program::Program;
use crate::shape::{DevicePointer, Shape};

/// The reason why an operation refused its arguments, or a kernel was not launched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The operation does not support an argument.
    #[error("{operation}: `{argument}` is {found}, but must be {expected}")]
    Unsuitable {
        /// The operation.
        operation: &'static str,
        /// The argument.
        argument: &'static str,
        /// The argument's value.
        found: String,
        /// The values that the operation supports.
        expected: String,
    },
    /// The kernel does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A call of the driver failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// Runs kernels. The implementation is a stream of a device; tests have another one that runs kernels on the CPU.
pub trait Launch {
    /// Enqueues a kernel without waiting for it. It runs after everything that was enqueued before.
    ///
    /// # Errors
    /// If the program does not compile, or the driver refuses the launch.
    ///
    /// # Safety
    /// `arguments` must point to the kernel's only argument: a struct of `size` bytes with the layout in the kernel's
    /// source. All addresses in it must be valid for the kernel's accesses until it has run.
    unsafe fn launch(
        &self,
        program: &Program,
        kernel: &'static str,
        shape: &Shape,
        arguments: *const c_void,
        size: usize,
    ) -> Result<(), Error>;
}

/// Launches with a typed argument.
///
/// # Safety
/// As for [`Launch::launch`]; `T` must have the layout of the kernel's argument.
pub(crate) unsafe fn launch<T>(
    on: &dyn Launch,
    program: &Program,
    kernel: &'static str,
    shape: &Shape,
    arguments: &T,
) -> Result<(), Error> {
    // SAFETY: the caller guarantees the type and the addresses. The argument is read before `launch` returns.
    unsafe { on.launch(program, kernel, shape, std::ptr::from_ref(arguments).cast(), size_of::<T>()) }
}

/// Returns [`Error::Unsuitable`] unless `is_suitable`.
pub(crate) fn require(
    is_suitable: bool,
    operation: &'static str,
    argument: &'static str,
    found: impl std::fmt::Display,
    expected: impl std::fmt::Display,
) -> Result<(), Error> {
    if is_suitable {
        return Ok(());
    }
    Err(Error::Unsuitable { operation, argument, found: found.to_string(), expected: expected.to_string() })
}

/// Refuses null, and addresses that are not multiples of `bytes`.
pub(crate) fn require_address(
    operation: &'static str,
    argument: &'static str,
    address: DevicePointer,
    bytes: u64,
) -> Result<(), Error> {
    let found = format_args!("{address:#x}").to_string();
    require(
        address != 0 && address.is_multiple_of(bytes),
        operation,
        argument,
        found,
        format!("an address that {bytes} divides"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_unaligned_addresses_are_refused() {
        assert!(require_address("adam", "mean", 64, 16).is_ok());
        assert!(require_address("adam", "mean", 0, 16).is_err());
        let text = require_address("adam", "mean", 0x28, 16).map_err(|error| error.to_string());
        assert_eq!(text, Err("adam: `mean` is 0x28, but must be an address that 16 divides".into()));
    }
}
