//! The part of the CUDA driver's interface that Admiral needs. Devices are used through their primary context, the one
//! that libtorch uses too, so that streams, events and addresses are common to both.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::Arc;

use crate::launch::{DevicePointer, Shape};
use crate::library::{self, Library, LibraryError, Loaded, SearchPath};
use crate::nvrtc::Architecture;

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

const NOT_READY: c_int = 600;
const STREAM_NON_BLOCKING: c_uint = 1;
const EVENT_DISABLE_TIMING: c_uint = 2;
const ATTRIBUTE_MULTIPROCESSORS: c_int = 16;
const ATTRIBUTE_MAJOR: c_int = 75;
const ATTRIBUTE_MINOR: c_int = 76;

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

/// A device, with its primary context held.
#[derive(Debug)]
pub struct Device {
    driver: Arc<Driver>,
    ordinal: usize,
    handle: c_int,
    context: Handle,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Device {}
// SAFETY: as above; the driver locks where it must.
unsafe impl Sync for Device {}

/// The context is current on this thread while this lives.
struct Current<'a> {
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

    fn current(&self) -> Result<Current<'_>, DriverError> {
        // SAFETY: the context is held as long as the device.
        self.check("cuCtxPushCurrent", unsafe { (self.driver.functions.context_push)(self.context) })?;
        Ok(Current { driver: &self.driver })
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), DriverError> {
        self.driver.check(call, Some(self.ordinal), code)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: it was retained once.
        unsafe { (self.driver.functions.primary_release)(self.handle) };
    }
}

/// A stream's handle, which libtorch or [`Stream`] owns. Null is the device's default stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamHandle(pub *mut c_void);

impl StreamHandle {
    /// The device's default stream.
    pub const DEFAULT: Self = Self(ptr::null_mut());
}

/// A stream of our own, that does not wait for the default one.
#[derive(Debug)]
pub struct Stream {
    device: Arc<Device>,
    handle: Handle,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Stream {}

impl Stream {
    /// Makes one.
    ///
    /// # Errors
    /// Where the driver refuses.
    pub fn new(device: &Arc<Device>) -> Result<Self, DriverError> {
        let _current = device.current()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the place is good to write, and the context is current.
        device.check("cuStreamCreate", unsafe {
            (device.driver.functions.stream_create)(&mut handle, STREAM_NON_BLOCKING)
        })?;
        Ok(Self { device: Arc::clone(device), handle })
    }

    /// For launches and for NCCL, as long as the stream lives.
    #[must_use]
    pub fn handle(&self) -> StreamHandle {
        StreamHandle(self.handle)
    }

    /// Waits on the host for all that was enqueued.
    ///
    /// # Errors
    /// Also what an earlier kernel did wrong.
    pub fn synchronize(&self) -> Result<(), DriverError> {
        let _current = self.device.current()?;
        // SAFETY: the handle is good.
        self.device
            .check("cuStreamSynchronize", unsafe { (self.device.driver.functions.stream_synchronize)(self.handle) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Ok(_current) = self.device.current() {
            // SAFETY: the handle is good and not used again; the driver lets enqueued work finish.
            unsafe { (self.device.driver.functions.stream_destroy)(self.handle) };
        }
    }
}

/// A mark in a stream.
#[derive(Debug)]
pub struct Event {
    device: Arc<Device>,
    handle: Handle,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// Makes one; `timed` ones can measure, the others are cheaper.
    ///
    /// # Errors
    /// Where the driver refuses.
    pub fn new(device: &Arc<Device>, timed: bool) -> Result<Self, DriverError> {
        let _current = device.current()?;
        let mut handle = ptr::null_mut();
        let flags = if timed { 0 } else { EVENT_DISABLE_TIMING };
        // SAFETY: the place is good to write, and the context is current.
        device.check("cuEventCreate", unsafe { (device.driver.functions.event_create)(&mut handle, flags) })?;
        Ok(Self { device: Arc::clone(device), handle })
    }

    /// Sets the mark behind all that is enqueued in the stream now.
    ///
    /// # Errors
    /// Where the driver refuses.
    ///
    /// # Safety
    /// The stream lives, and is one of this event's device.
    pub unsafe fn record(&self, stream: StreamHandle) -> Result<(), DriverError> {
        let _current = self.device.current()?;
        // SAFETY: the handles are good.
        self.device
            .check("cuEventRecord", unsafe { (self.device.driver.functions.event_record)(self.handle, stream.0) })
    }

    /// Lets what is enqueued in `stream` from now on wait for the mark. The host does not wait.
    ///
    /// # Errors
    /// Where the driver refuses.
    ///
    /// # Safety
    /// The stream lives.
    pub unsafe fn hold_back(&self, stream: StreamHandle) -> Result<(), DriverError> {
        let _current = self.device.current()?;
        // SAFETY: the handles are good.
        self.device.check("cuStreamWaitEvent", unsafe {
            (self.device.driver.functions.stream_wait_event)(stream.0, self.handle, 0)
        })
    }

    /// Whether the mark has been passed.
    ///
    /// # Errors
    /// Also what an earlier kernel did wrong.
    pub fn is_passed(&self) -> Result<bool, DriverError> {
        let _current = self.device.current()?;
        // SAFETY: the handle is good.
        match unsafe { (self.device.driver.functions.event_query)(self.handle) } {
            NOT_READY => Ok(false),
            code => self.device.check("cuEventQuery", code).map(|()| true),
        }
    }

    /// Seconds from `earlier`'s mark to this one; both must be timed and passed.
    ///
    /// # Errors
    /// Where they are not.
    pub fn seconds_since(&self, earlier: &Self) -> Result<f64, DriverError> {
        let _current = self.device.current()?;
        let mut milliseconds = 0.0;
        // SAFETY: the handles are good, the place too.
        self.device.check("cuEventElapsedTime", unsafe {
            (self.device.driver.functions.event_elapsed)(&mut milliseconds, earlier.handle, self.handle)
        })?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_current) = self.device.current() {
            // SAFETY: the handle is good and not used again.
            unsafe { (self.device.driver.functions.event_destroy)(self.handle) };
        }
    }
}

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
