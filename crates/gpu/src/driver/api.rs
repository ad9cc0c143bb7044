//! The driver's functions, and the driver itself.

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
                // SAFETY: the types are those of cuda.h; names with _v2 are what it maps the plain ones to.
                unsafe { Ok(Self { $($field: loaded.function($name)?,)* }) }
            }
        }

        /// The names of all functions that are needed of the driver.
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

/// The driver, loaded and initialised.
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
    /// Loads and initialises it.
    ///
    /// # Errors
    /// Where there is none, or it sees no device.
    pub fn load(search: &SearchPath) -> Result<Arc<Self>, DriverError> {
        Self::from_library(library::load(Library::Driver, search)?)
    }

    /// From a library that is loaded already.
    ///
    /// # Errors
    /// As [`Driver::load`].
    pub fn from_library(loaded: Loaded) -> Result<Arc<Self>, DriverError> {
        let functions = Functions::load(&loaded)?;
        let driver = Self { loaded, functions };
        // SAFETY: 0 is the one value that cuInit takes.
        driver.check("cuInit", None, unsafe { (driver.functions.init)(0) })?;
        Ok(Arc::new(driver))
    }

    /// Where it was found.
    #[must_use]
    pub fn path(&self) -> &str {
        self.loaded.path()
    }

    /// The newest CUDA that it supports, as `12.8`.
    #[must_use]
    pub fn version(&self) -> String {
        let mut version: c_int = 0;
        // SAFETY: the place is good to write; where the call fails it stays 0.
        unsafe { (self.functions.version)(&mut version) };
        format!("{}.{}", version / 1000, version % 1000 / 10)
    }

    /// How many devices it lets this process see.
    ///
    /// # Errors
    /// Where it cannot say.
    pub fn device_count(&self) -> Result<usize, DriverError> {
        let mut count: c_int = 0;
        // SAFETY: the place is good to write.
        self.check("cuDeviceGetCount", None, unsafe { (self.functions.device_count)(&mut count) })?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    pub(super) fn check(&self, call: &'static str, device: Option<usize>, code: c_int) -> Result<(), DriverError> {
        if code == 0 {
            return Ok(());
        }
        let (mut name, mut word) = (ptr::null(), ptr::null());
        // SAFETY: both places are good to write; the strings are constants of the driver, or null.
        let (name, word) = unsafe {
            (self.functions.error_name)(code, &mut name);
            (self.functions.error_string)(code, &mut word);
            (library::text(name, "unknown"), library::text(word, "the driver has no word for it"))
        };
        Err(DriverError::Call { call, device, code, name, word })
    }
}
