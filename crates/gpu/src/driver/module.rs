//! Loaded machine code, and device memory for tests.

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;

use super::api::Handle;
use super::device::Device;
use super::error::DriverError;
use super::stream::{Stream, StreamHandle};
use crate::shape::{DevicePointer, Shape};

/// A loaded module of machine code.
#[derive(Debug)]
pub struct Module {
    device: Arc<Device>,
    handle: Handle,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// A kernel of a module. It is valid as long as the module lives.
#[derive(Debug, Clone, Copy)]
pub struct Function(Handle);

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Function {}

impl Module {
    /// Loads an image that was compiled for this device.
    ///
    /// # Errors
    /// If the image is for another architecture, or is damaged.
    pub fn load(device: &Arc<Device>, image: &[u8]) -> Result<Self, DriverError> {
        let _current = device.current()?;
        let mut handle = ptr::null_mut();
        // SAFETY: an ELF image contains its length, and the driver copies it.
        device.check("cuModuleLoadData", unsafe {
            (device.driver.functions.module_load)(&mut handle, image.as_ptr().cast())
        })?;
        Ok(Self { device: Arc::clone(device), handle })
    }

    /// Returns a kernel by its name.
    ///
    /// # Errors
    /// If the module has no such kernel.
    pub fn function(&self, name: &'static str) -> Result<Function, DriverError> {
        let _current = self.device.current()?;
        let text = CString::new(name).unwrap_or_default();
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer and the text are valid.
        self.device.check("cuModuleGetFunction", unsafe {
            (self.device.driver.functions.module_function)(&mut handle, self.handle, text.as_ptr())
        })?;
        Ok(Function(handle))
    }

    /// Enqueues a kernel of this module with one argument.
    ///
    /// # Errors
    /// If the driver reports an error.
    ///
    /// # Safety
    /// The function must belong to this module. The argument must have the type that the kernel takes, with addresses
    /// that are valid until the kernel has run. The stream must be alive.
    pub unsafe fn launch(
        &self,
        function: Function,
        shape: &Shape,
        stream: StreamHandle,
        argument: *const c_void,
    ) -> Result<(), DriverError> {
        let _current = self.device.current()?;
        let [x, y, z] = shape.grid;
        let mut arguments = [argument.cast_mut()];
        // SAFETY: the driver reads the argument before it returns. The caller guarantees the rest.
        self.device.check("cuLaunchKernel", unsafe {
            (self.device.driver.functions.launch)(
                function.0,
                x,
                y,
                z,
                shape.block,
                1,
                1,
                shape.shared_bytes,
                stream.0,
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Ok(_current) = self.device.current() {
            // SAFETY: the handle is valid and not used again.
            unsafe { (self.device.driver.functions.module_unload)(self.handle) };
        }
    }
}

/// Device memory for tests and measurements. The memory of training belongs to libtorch.
#[derive(Debug)]
pub struct DeviceMemory {
    device: Arc<Device>,
    address: DevicePointer,
    length: usize,
}

impl DeviceMemory {
    /// Allocates memory of the length of `bytes`, and copies them there.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn from_bytes(device: &Arc<Device>, bytes: &[u8]) -> Result<Self, DriverError> {
        let _current = device.current()?;
        let mut address = 0;
        // SAFETY: the pointer is valid.
        device.check("cuMemAlloc", unsafe {
            (device.driver.functions.memory_allocate)(&mut address, bytes.len().max(1))
        })?;
        let memory = Self { device: Arc::clone(device), address, length: bytes.len() };
        // SAFETY: both ranges have this length.
        device.check("cuMemcpyHtoD", unsafe {
            (device.driver.functions.copy_in)(address, bytes.as_ptr().cast(), bytes.len())
        })?;
        Ok(memory)
    }

    /// Returns its address, a multiple of 256.
    #[must_use]
    pub fn address(&self) -> DevicePointer {
        self.address
    }

    /// Enqueues a copy of the bytes of `from` that fit. Its speed is the reference for the bandwidth of kernels.
    ///
    /// # Errors
    /// If the driver reports an error.
    pub fn copy_from(&self, from: &Self, stream: &Stream) -> Result<(), DriverError> {
        let _current = self.device.current()?;
        let length = self.length.min(from.length);
        // SAFETY: both ranges have this length. The driver frees memory only after copies that use it.
        self.device.check("cuMemcpyDtoDAsync", unsafe {
            (self.device.driver.functions.copy_across)(self.address, from.address, length, stream.handle().0)
        })
    }

    /// Returns its bytes, after everything in the default stream has run.
    ///
    /// # Errors
    /// If the driver reports an error, also of an earlier kernel.
    pub fn read(&self) -> Result<Vec<u8>, DriverError> {
        let _current = self.device.current()?;
        let mut bytes = vec![0; self.length];
        // SAFETY: both ranges have this length.
        self.device.check("cuMemcpyDtoH", unsafe {
            (self.device.driver.functions.copy_out)(bytes.as_mut_ptr().cast(), self.address, self.length)
        })?;
        Ok(bytes)
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if let Ok(_current) = self.device.current() {
            // SAFETY: it was allocated once and is not used again. The driver waits for kernels that use it.
            unsafe { (self.device.driver.functions.memory_free)(self.address) };
        }
    }
}
