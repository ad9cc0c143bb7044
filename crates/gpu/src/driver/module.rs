//! Loaded code, and memory to try it on.

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;

use super::api::Handle;
use super::device::Device;
use super::error::DriverError;
use super::stream::{Stream, StreamHandle};
use crate::shape::{DevicePointer, Shape};

/// Loaded machine code.
#[derive(Debug)]
pub struct Module {
    device: Arc<Device>,
    handle: Handle,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// A kernel of a module that lives.
#[derive(Debug, Clone, Copy)]
pub struct Function(Handle);

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Function {}

impl Module {
    /// Loads an image that was compiled for this device.
    ///
    /// # Errors
    /// Where it is of another architecture, or damaged.
    pub fn load(device: &Arc<Device>, image: &[u8]) -> Result<Self, DriverError> {
        let _current = device.current()?;
        let mut handle = ptr::null_mut();
        // SAFETY: an ELF image says its own length; the driver copies it.
        device.check("cuModuleLoadData", unsafe {
            (device.driver.functions.module_load)(&mut handle, image.as_ptr().cast())
        })?;
        Ok(Self { device: Arc::clone(device), handle })
    }

    /// A kernel by its name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn function(&self, name: &'static str) -> Result<Function, DriverError> {
        let _current = self.device.current()?;
        let text = CString::new(name).unwrap_or_default();
        let mut handle = ptr::null_mut();
        // SAFETY: the place and the text are good.
        self.device.check("cuModuleGetFunction", unsafe {
            (self.device.driver.functions.module_function)(&mut handle, self.handle, text.as_ptr())
        })?;
        Ok(Function(handle))
    }

    /// Enqueues a kernel of this module with one argument.
    ///
    /// # Errors
    /// Where the driver refuses.
    ///
    /// # Safety
    /// The function is of this module; the argument is what it takes, with addresses that are good until it has run; the
    /// stream lives.
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
        // SAFETY: the driver reads the argument before it returns; the rest is the caller's word.
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
            // SAFETY: the handle is good and not used again.
            unsafe { (self.device.driver.functions.module_unload)(self.handle) };
        }
    }
}

/// Device memory of our own, for checks of a device; training's memory is libtorch's.
#[derive(Debug)]
pub struct DeviceMemory {
    device: Arc<Device>,
    address: DevicePointer,
    length: usize,
}

impl DeviceMemory {
    /// Allocates as much as `bytes`, and copies them there.
    ///
    /// # Errors
    /// Where there is not enough.
    pub fn holding(device: &Arc<Device>, bytes: &[u8]) -> Result<Self, DriverError> {
        let _current = device.current()?;
        let mut address = 0;
        // SAFETY: the place is good to write.
        device.check("cuMemAlloc", unsafe {
            (device.driver.functions.memory_allocate)(&mut address, bytes.len().max(1))
        })?;
        let memory = Self { device: Arc::clone(device), address, length: bytes.len() };
        // SAFETY: both sides have that length.
        device.check("cuMemcpyHtoD", unsafe {
            (device.driver.functions.copy_in)(address, bytes.as_ptr().cast(), bytes.len())
        })?;
        Ok(memory)
    }

    /// Where it lies; 256 divides it.
    #[must_use]
    pub fn address(&self) -> DevicePointer {
        self.address
    }

    /// Enqueues a copy of all of `from`, as much as fits: the measure that kernels are held to.
    ///
    /// # Errors
    /// Where the driver refuses.
    pub fn copy_from(&self, from: &Self, stream: &Stream) -> Result<(), DriverError> {
        let _current = self.device.current()?;
        let length = self.length.min(from.length);
        // SAFETY: both have that length; memory that is freed while a copy runs is freed after it.
        self.device.check("cuMemcpyDtoDAsync", unsafe {
            (self.device.driver.functions.copy_across)(self.address, from.address, length, stream.handle().0)
        })
    }

    /// What it holds, once all that is enqueued in the default stream has run.
    ///
    /// # Errors
    /// Also what an earlier kernel did wrong.
    pub fn read(&self) -> Result<Vec<u8>, DriverError> {
        let _current = self.device.current()?;
        let mut bytes = vec![0; self.length];
        // SAFETY: both sides have that length.
        self.device.check("cuMemcpyDtoH", unsafe {
            (self.device.driver.functions.copy_out)(bytes.as_mut_ptr().cast(), self.address, self.length)
        })?;
        Ok(bytes)
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if let Ok(_current) = self.device.current() {
            // SAFETY: it was allocated once and is not used again; the driver waits for kernels.
            unsafe { (self.device.driver.functions.memory_free)(self.address) };
        }
    }
}
