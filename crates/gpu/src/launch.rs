//! Launching a kernel: the shape of its grid, and the seam between the faces of kernels and what runs them.

use std::ffi::c_void;

use crate::driver::DriverError;
use crate::nvrtc::CompileError;
use crate::program::Program;
use crate::shape::{DevicePointer, Shape};

/// Why a kernel was not launched, or an operation refused its arguments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An argument is not what the operation takes.
    #[error("{operation}: `{argument}` is {found}, but must be {expected}")]
    Unsuitable {
        /// The operation that refused.
        operation: &'static str,
        /// Which of its arguments.
        argument: &'static str,
        /// As found.
        found: String,
        /// What would have been right.
        expected: String,
    },
    /// The kernel could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The driver refused.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// What runs kernels: a stream of a device. Tests have one more body, which runs their text on the CPU.
pub trait Launch {
    /// Enqueues a kernel and returns; it runs after all that was enqueued before.
    ///
    /// # Errors
    /// Where the program does not compile or the driver refuses.
    ///
    /// # Safety
    /// `arguments` points to `size` bytes: the kernel's one argument, a struct of the layout that its source says. All
    /// addresses in it are good for what the kernel does with them until it has run.
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
/// As [`Launch::launch`]: `T` has the layout of the kernel's argument.
pub(crate) unsafe fn launch<T>(
    on: &dyn Launch,
    program: &Program,
    kernel: &'static str,
    shape: &Shape,
    arguments: &T,
) -> Result<(), Error> {
    // SAFETY: the caller vouches for type and addresses; the argument is read before `launch` returns.
    unsafe { on.launch(program, kernel, shape, std::ptr::from_ref(arguments).cast(), size_of::<T>()) }
}

/// [`Error::Unsuitable`] unless `suits`.
pub(crate) fn require(
    suits: bool,
    operation: &'static str,
    argument: &'static str,
    found: impl std::fmt::Display,
    expected: impl std::fmt::Display,
) -> Result<(), Error> {
    if suits {
        return Ok(());
    }
    Err(Error::Unsuitable { operation, argument, found: found.to_string(), expected: expected.to_string() })
}

/// Refuses null, and addresses that cannot be read `bytes` at once.
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
    fn addresses_must_be_there_and_aligned() {
        assert!(require_address("adam", "mean", 64, 16).is_ok());
        assert!(require_address("adam", "mean", 0, 16).is_err());
        let text = require_address("adam", "mean", 0x28, 16).map_err(|error| error.to_string());
        assert_eq!(text, Err("adam: `mean` is 0x28, but must be an address that 16 divides".into()));
    }
}
