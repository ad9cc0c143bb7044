//! The loaded driver and its functions.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::Arc;

use super::error::DriverError;
use crate::library::{self, Library, LibraryError, Loaded, SearchPath};
use crate::shape::DevicePointer;

macro_rules! functions {
    ($($field:ident = $name:literal ($($argument:ty),* $(,)?);)*) => {
        pub(super) struct Functions {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        impl Functions {
            fn load(loaded: &Loaded) -> Result<Self, LibraryError> {
                // SAFETY: the types are those of cuda.h, which maps the plain names to those with _v2.
                unsafe { Ok(Self { $($field: loaded.function($name)?,)* }) }
            }
        }

        /// The names of all driver functions that are used.
        pub const FUNCTIONS: &[&str] = &[$($name),*];
    };
}

pub(super) type Handle = *mut c_void;

functions! {
    init = "cuInit"(c_uint);
    version = "cuDriverGetVersion"(*mut c_int);
    error_name = "cuGetErrorName"(c_int, *mut *const c_char);
    error_string = "cuGetErrorString"(c_int, *mut *const c_char);
    device_count = "cuDeviceGetCount"(*mut c_int);
    device_get = "cuDeviceGet"(*mut c_int, c_int);
    device_name = "cuDeviceGetName"(*mut c_char, c_int, c_int);
    device_attribute = "cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
    device_memory = "cuDeviceTotalMem_v2"(*mut usize, c_int);
    primary_retain = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    primary_release = "cuDevicePrimaryCtxRelease_v2"(c_int);
    context_set = "cuCtxSetCurrent"(Handle);
    context_push = "cuCtxPushCurrent_v2"(Handle);
    context_pop = "cuCtxPopCurrent_v2"(*mut Handle);
    memory_info = "cuMemGetInfo_v2"(*mut usize, *mut usize);
    memory_allocate = "cuMemAlloc_v2"(*mut DevicePointer, usize);
    memory_free = "cuMemFree_v2"(DevicePointer);
    copy_in = "cuMemcpyHtoD_v2"(DevicePointer, *const c_void, usize);
    copy_out = "cuMemcpyDtoH_v2"(*mut c_void, DevicePointer, usize);
    copy_across = "cuMemcpyDtoDAsync_v2"(DevicePointer, DevicePointer, usize, Handle);
    module_load = "cuModuleLoadData"(*mut Handle, *const c_void);
    module_unload = "cuModuleUnload"(Handle);
    module_function = "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    launch = "cuLaunchKernel"(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void,
    );
    stream_create = "cuStreamCreate"(*mut Handle, c_uint);
    stream_destroy = "cuStreamDestroy_v2"(Handle);
    stream_synchronize = "cuStreamSynchronize"(Handle);
    stream_wait_event = "cuStreamWaitEvent"(Handle, Handle, c_uint);
    event_create = "cuEventCreate"(*mut Handle, c_uint);
    event_record = "cuEventRecord"(Handle, Handle);
    event_query = "cuEventQuery"(Handle);
    event_elapsed = "cuEventElapsedTime"(*mut f32, Handle, Handle);
    event_destroy = "cuEventDestroy_v2"(Handle);
}

/// The loaded and initialized driver.
pub struct Driver {
    loaded: Loaded,
    pub(super) functions: Functions,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the CUDA driver from {}", self.loaded.path())
    }
}

impl Driver {
    /// Loads and initializes the driver.
    ///
    /// # Errors
    /// If the driver is not found, or it sees no device.
    pub fn load(search: &SearchPath) -> Result<Arc<Self>, DriverError> {
        Self::from_library(library::load(Library::Driver, search)?)
    }

    /// Uses a library that is already loaded.
    ///
    /// # Errors
    /// As for [`Driver::load`].
    pub fn from_library(loaded: Loaded) -> Result<Arc<Self>, DriverError> {
        let functions = Functions::load(&loaded)?;
        let driver = Self { loaded, functions };
        // SAFETY: cuInit accepts only 0.
        driver.check("cuInit", None, unsafe { (driver.functions.init)(0) })?;
        Ok(Arc::new(driver))
    }

    /// Returns the name or path under which it was loaded.
    #[must_use]
    pub fn path(&self) -> &str {
        self.loaded.path()
    }

    /// Returns the newest CUDA version that it supports: `12.8`.
    #[must_use]
    pub fn version(&self) -> String {
        let mut version: c_int = 0;
        // SAFETY: the pointer is valid. The version stays 0 if the call fails.
        unsafe { (self.functions.version)(&mut version) };
        format!("{}.{}", version / 1000, version % 1000 / 10)
    }

    /// Returns the number of devices that this process can see.
    ///
    /// # Errors
    /// If the driver reports an error.
    pub fn device_count(&self) -> Result<usize, DriverError> {
        let mut count: c_int = 0;
        // SAFETY: the pointer is valid.
        self.check("cuDeviceGetCount", None, unsafe { (self.functions.device_count)(&mut count) })?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    pub(super) fn check(&self, call: &'static str, device: Option<usize>, code: c_int) -> Result<(), DriverError> {
        if code == 0 {
            return Ok(());
        }
        let (mut name, mut description) = (ptr::null(), ptr::null());
        // SAFETY: both pointers are valid. The strings are constants of the driver, or null.
        let (name, description) = unsafe {
            (self.functions.error_name)(code, &mut name);
            (self.functions.error_string)(code, &mut description);
            (library::text(name, "unknown"), library::text(description, "the driver has no description of it"))
        };
        Err(DriverError::Call { call, device, code, name, description })
    }
}
