//! The part of the CUDA driver's interface that Admiral needs. Devices are used through their primary context, the one
//! that libtorch uses too, so that streams, events and addresses are common to both.

mod device;
mod module;
mod stream;

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::Arc;

use crate::launch::DevicePointer;
use crate::library::{self, Library, LibraryError, Loaded, SearchPath};

pub use device::Device;
pub use module::{DeviceMemory, Function, Module};
pub use stream::{Event, Stream, StreamHandle};

/// What the driver refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// The driver is not at hand.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A call failed.
    #[error("{call} failed{}: {name} ({code}), {word}{}", on(*.device), advice(*.code))]
    Call {
        /// The function.
        call: &'static str,
        /// The device's number, where the call was about one.
        device: Option<usize>,
        /// CUDA's number of the failure.
        code: i32,
        /// Its name.
        name: String,
        /// CUDA's sentence about it.
        word: String,
    },
    /// There is no device of this number.
    #[error("there is no GPU {ordinal}: the driver sees {count} (CUDA_VISIBLE_DEVICES says which it may see)")]
    NoDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
}

fn on(device: Option<usize>) -> String {
    device.map(|ordinal| format!(" on GPU {ordinal}")).unwrap_or_default()
}

/// What to do about failures that users meet.
fn advice(code: i32) -> &'static str {
    match code {
        2 => "; another process may hold the memory: nvidia-smi lists them",
        100 => "; no GPU can be seen: look at nvidia-smi, at CUDA_VISIBLE_DEVICES, and at the container's --gpus",
        // ECC errors, hardware stack errors, illegal addresses and the like: the context is lost.
        214 | 700 | 702 | 714 | 715 | 716 | 717 | 718 | 719 => {
            "; this process cannot use the GPU any more: start again, and look at `dmesg | grep Xid` where it repeats"
        }
        _ => "",
    }
}

macro_rules! functions {
    ($($field:ident = $name:literal ($($argument:ty),* $(,)?);)*) => {
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) -> c_int,)*
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

type Handle = *mut c_void;

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
    functions: Functions,
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

    fn check(&self, call: &'static str, device: Option<usize>, code: c_int) -> Result<(), DriverError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_say_the_call_the_device_cudas_word_and_what_to_do() {
        let error = DriverError::Call {
            call: "cuLaunchKernel",
            device: Some(3),
            code: 700,
            name: "CUDA_ERROR_ILLEGAL_ADDRESS".into(),
            word: "an illegal memory access was encountered".into(),
        };
        let text = error.to_string();
        assert!(
            text.starts_with("cuLaunchKernel failed on GPU 3: CUDA_ERROR_ILLEGAL_ADDRESS (700), an illegal"),
            "{text}"
        );
        assert!(text.contains("Xid"), "{text}");
        let text = DriverError::NoDevice { ordinal: 8, count: 4 }.to_string();
        assert_eq!(text, "there is no GPU 8: the driver sees 4 (CUDA_VISIBLE_DEVICES says which it may see)");
    }
}
