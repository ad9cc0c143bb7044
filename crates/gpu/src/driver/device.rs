//! A device, through the context that libtorch has too.

use std::ffi::c_int;
use std::ptr;
use std::sync::Arc;

use super::api::{Driver, Handle};
use super::error::DriverError;
use crate::nvrtc::Architecture;

const ATTRIBUTE_MULTIPROCESSORS: c_int = 16;
const ATTRIBUTE_MAJOR: c_int = 75;
const ATTRIBUTE_MINOR: c_int = 76;

/// A device, with its primary context held.
#[derive(Debug)]
pub struct Device {
    pub(super) driver: Arc<Driver>,
    ordinal: usize,
    handle: c_int,
    context: Handle,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Device {}
// SAFETY: as above; the driver locks where it must.
unsafe impl Sync for Device {}

/// The context is current on this thread while this lives.
pub(super) struct Current<'a> {
    driver: &'a Driver,
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut popped = ptr::null_mut();
        // SAFETY: the context was pushed on this thread when the guard was made, and guards end in reverse order.
        unsafe { (self.driver.functions.context_pop)(&mut popped) };
    }
}

impl Device {
    /// The device of this number among those that the process sees; libtorch counts the same way.
    ///
    /// # Errors
    /// Where there is none, or its context cannot be made.
    pub fn open(driver: &Arc<Driver>, ordinal: usize) -> Result<Arc<Self>, DriverError> {
        let count = driver.device_count()?;
        if ordinal >= count {
            return Err(DriverError::NoDevice { ordinal, count });
        }
        let (mut handle, mut context) = (0, ptr::null_mut());
        // SAFETY: the places are good to write.
        driver.check("cuDeviceGet", Some(ordinal), unsafe {
            (driver.functions.device_get)(&mut handle, ordinal as c_int)
        })?;
        // SAFETY: as above.
        driver.check("cuDevicePrimaryCtxRetain", Some(ordinal), unsafe {
            (driver.functions.primary_retain)(&mut context, handle)
        })?;
        Ok(Arc::new(Self { driver: Arc::clone(driver), ordinal, handle, context }))
    }

    /// Its number.
    #[must_use]
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Its name, as NVIDIA gives it.
    ///
    /// # Errors
    /// Where the driver cannot say.
    pub fn name(&self) -> Result<String, DriverError> {
        let mut bytes = [0u8; 256];
        // SAFETY: the buffer has that length.
        self.check("cuDeviceGetName", unsafe {
            (self.driver.functions.device_name)(bytes.as_mut_ptr().cast(), bytes.len() as c_int, self.handle)
        })?;
        let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Its generation.
    ///
    /// # Errors
    /// Where the driver cannot say.
    pub fn architecture(&self) -> Result<Architecture, DriverError> {
        Ok(Architecture { major: self.attribute(ATTRIBUTE_MAJOR)?, minor: self.attribute(ATTRIBUTE_MINOR)? })
    }

    /// How many multiprocessors it has.
    ///
    /// # Errors
    /// Where the driver cannot say.
    pub fn multiprocessors(&self) -> Result<u32, DriverError> {
        self.attribute(ATTRIBUTE_MULTIPROCESSORS)
    }

    fn attribute(&self, which: c_int) -> Result<u32, DriverError> {
        let mut value: c_int = 0;
        // SAFETY: the place is good to write.
        self.check("cuDeviceGetAttribute", unsafe {
            (self.driver.functions.device_attribute)(&mut value, which, self.handle)
        })?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// All its memory, in bytes.
    ///
    /// # Errors
    /// Where the driver cannot say.
    pub fn total_memory(&self) -> Result<usize, DriverError> {
        let mut bytes = 0;
        // SAFETY: the place is good to write.
        self.check("cuDeviceTotalMem", unsafe { (self.driver.functions.device_memory)(&mut bytes, self.handle) })?;
        Ok(bytes)
    }

    /// Its free memory, in bytes; what libtorch holds in its cache counts as taken.
    ///
    /// # Errors
    /// Where the driver cannot say.
    pub fn free_memory(&self) -> Result<usize, DriverError> {
        let _current = self.current()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both places are good to write.
        self.check("cuMemGetInfo", unsafe { (self.driver.functions.memory_info)(&mut free, &mut total) })?;
        Ok(free)
    }

    /// Makes it this thread's device, for libraries that ask the thread (NCCL does when it starts).
    ///
    /// # Errors
    /// Where the driver refuses.
    pub fn make_current(&self) -> Result<(), DriverError> {
        // SAFETY: the context is held as long as the device; libtorch holds it too.
        self.check("cuCtxSetCurrent", unsafe { (self.driver.functions.context_set)(self.context) })
    }

    pub(super) fn current(&self) -> Result<Current<'_>, DriverError> {
        // SAFETY: the context is held as long as the device.
        self.check("cuCtxPushCurrent", unsafe { (self.driver.functions.context_push)(self.context) })?;
        Ok(Current { driver: &self.driver })
    }

    pub(super) fn check(&self, call: &'static str, code: c_int) -> Result<(), DriverError> {
        self.driver.check(call, Some(self.ordinal), code)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: it was retained once.
        unsafe { (self.driver.functions.primary_release)(self.handle) };
    }
}
