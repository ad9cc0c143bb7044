//! Devices and their primary contexts.

use std::ffi::c_int;
use std::ptr;
use std::sync::Arc;

use super::api::{Driver, Handle};
use super::error::DriverError;
use crate::nvrtc::Architecture;

const ATTRIBUTE_MULTIPROCESSORS: c_int = 16;
const ATTRIBUTE_MAJOR: c_int = 75;
const ATTRIBUTE_MINOR: c_int = 76;

/// A device with a reference to its primary context.
#[derive(Debug)]
pub struct Device {
    pub(super) driver: Arc<Driver>,
    ordinal: usize,
    handle: c_int,
    context: Handle,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Device {}
// SAFETY: as above; the driver synchronizes its calls.
unsafe impl Sync for Device {}

/// Keeps the context current on this thread while it lives.
pub(super) struct Current<'a> {
    driver: &'a Driver,
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut popped = ptr::null_mut();
        // SAFETY: the guard pushed the context on this thread when it was made, and guards are dropped in reverse
        // order.
        unsafe { (self.driver.functions.context_pop)(&mut popped) };
    }
}

impl Device {
    /// Opens the device with this index among those that the process can see. The index is the same as in libtorch.
    ///
    /// # Errors
    /// If there is no such device, or its context cannot be created.
    pub fn open(driver: &Arc<Driver>, ordinal: usize) -> Result<Arc<Self>, DriverError> {
        let count = driver.device_count()?;
        if ordinal >= count {
            return Err(DriverError::NoDevice { ordinal, count });
        }
        let (mut handle, mut context) = (0, ptr::null_mut());
        // SAFETY: the pointers are valid.
        driver.check("cuDeviceGet", Some(ordinal), unsafe {
            (driver.functions.device_get)(&mut handle, ordinal as c_int)
        })?;
        // SAFETY: as above.
        driver.check("cuDevicePrimaryCtxRetain", Some(ordinal), unsafe {
            (driver.functions.primary_retain)(&mut context, handle)
        })?;
        Ok(Arc::new(Self { driver: Arc::clone(driver), ordinal, handle, context }))
    }

    /// Returns its index.
    #[must_use]
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Returns the name that NVIDIA gives it.
    ///
    /// # Errors
    /// If the driver reports an error.
    pub fn name(&self) -> Result<String, DriverError> {
        let mut bytes = [0u8; 256];
        // SAFETY: the buffer has that length.
        self.check("cuDeviceGetName", unsafe {
            (self.driver.functions.device_name)(bytes.as_mut_ptr().cast(), bytes.len() as c_int, self.handle)
        })?;
        let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Returns its architecture.
    ///
    /// # Errors
    /// If the driver reports an error.
    pub fn architecture(&self) -> Result<Architecture, DriverError> {
        Ok(Architecture { major: self.attribute(ATTRIBUTE_MAJOR)?, minor: self.attribute(ATTRIBUTE_MINOR)? })
    }

    /// Returns the number of multiprocessors.
    ///
    /// # Errors
    /// If the driver reports an error.
    pub fn multiprocessors(&self) -> Result<u32, DriverError> {
        self.attribute(ATTRIBUTE_MULTIPROCESSORS)
    }

    fn attribute(&self, which: c_int) -> Result<u32, DriverError> {
        let mut value: c_int = 0;
        // SAFETY: the pointer is valid.
        self.check("cuDeviceGetAttribute", unsafe {
            (self.driver.functions.device_attribute)(&mut value, which, self.handle)
        })?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// Returns the total memory in bytes.
    ///
    /// # Errors
    /// If the driver reports an error.
    pub fn total_memory(&self) -> Result<usize, DriverError> {
        let mut bytes = 0;
        // SAFETY: the pointer is valid.
        self.check("cuDeviceTotalMem", unsafe { (self.driver.functions.device_memory)(&mut bytes, self.handle) })?;
        Ok(bytes)
    }

    /// Returns the free memory in bytes. The memory in libtorch's cache is not free.
    ///
    /// # Errors
    /// If the driver reports an error.
    pub fn free_memory(&self) -> Result<usize, DriverError> {
        let _current = self.current()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both pointers are valid.
        self.check("cuMemGetInfo", unsafe { (self.driver.functions.memory_info)(&mut free, &mut total) })?;
        Ok(free)
    }

    /// Makes it the current device of this thread, for libraries that use the current device, such as NCCL at its
    /// start.
    ///
    /// # Errors
    /// If the driver reports an error.
    pub fn make_current(&self) -> Result<(), DriverError> {
        // SAFETY: the device keeps the context alive, and so does libtorch.
        self.check("cuCtxSetCurrent", unsafe { (self.driver.functions.context_set)(self.context) })
    }

    pub(super) fn current(&self) -> Result<Current<'_>, DriverError> {
        // SAFETY: the device keeps the context alive.
        self.check("cuCtxPushCurrent", unsafe { (self.driver.functions.context_push)(self.context) })?;
        Ok(Current { driver: &self.driver })
    }

    pub(super) fn check(&self, call: &'static str, code: c_int) -> Result<(), DriverError> {
        self.driver.check(call, Some(self.ordinal), code)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: the context was retained once.
        unsafe { (self.driver.functions.primary_release)(self.handle) };
    }
}
