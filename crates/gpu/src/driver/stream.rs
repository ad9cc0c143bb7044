//! Streams and events.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;
use std::sync::Arc;

use super::api::Handle;
use super::device::Device;
use super::error::DriverError;

const NOT_READY: c_int = 600;
const STREAM_NON_BLOCKING: c_uint = 1;
const EVENT_DISABLE_TIMING: c_uint = 2;

/// The handle of a stream that libtorch or [`Stream`] owns. Null is the default stream of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamHandle(pub *mut c_void);

impl StreamHandle {
    /// The default stream of the device.
    pub const DEFAULT: Self = Self(ptr::null_mut());
}

/// A stream that does not synchronize with the default stream.
#[derive(Debug)]
pub struct Stream {
    device: Arc<Device>,
    handle: Handle,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Stream {}

impl Stream {
    /// Creates a stream.
    ///
    /// # Errors
    /// If the driver reports an error.
    pub fn new(device: &Arc<Device>) -> Result<Self, DriverError> {
        let _current = device.current()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is valid, and the context is current.
        device.check("cuStreamCreate", unsafe {
            (device.driver.functions.stream_create)(&mut handle, STREAM_NON_BLOCKING)
        })?;
        Ok(Self { device: Arc::clone(device), handle })
    }

    /// Returns the handle for launches and for NCCL. It is valid as long as the stream lives.
    #[must_use]
    pub fn handle(&self) -> StreamHandle {
        StreamHandle(self.handle)
    }

    /// Blocks until everything in the stream has run.
    ///
    /// # Errors
    /// If the driver reports an error, also of an earlier kernel.
    pub fn synchronize(&self) -> Result<(), DriverError> {
        let _current = self.device.current()?;
        // SAFETY: the handle is valid.
        self.device
            .check("cuStreamSynchronize", unsafe { (self.device.driver.functions.stream_synchronize)(self.handle) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Ok(_current) = self.device.current() {
            // SAFETY: the handle is valid and not used again. The driver finishes the enqueued work.
            unsafe { (self.device.driver.functions.stream_destroy)(self.handle) };
        }
    }
}

/// An event, which marks a point in a stream.
#[derive(Debug)]
pub struct Event {
    device: Arc<Device>,
    handle: Handle,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// Creates an event. Only `timed` events can measure time; the others are cheaper.
    ///
    /// # Errors
    /// If the driver reports an error.
    pub fn new(device: &Arc<Device>, timed: bool) -> Result<Self, DriverError> {
        let _current = device.current()?;
        let mut handle = ptr::null_mut();
        let flags = if timed { 0 } else { EVENT_DISABLE_TIMING };
        // SAFETY: the pointer is valid, and the context is current.
        device.check("cuEventCreate", unsafe { (device.driver.functions.event_create)(&mut handle, flags) })?;
        Ok(Self { device: Arc::clone(device), handle })
    }

    /// Records the event in a stream, after everything that is enqueued there now.
    ///
    /// # Errors
    /// If the driver reports an error.
    ///
    /// # Safety
    /// The stream must be alive and belong to the event's device.
    pub unsafe fn record(&self, stream: StreamHandle) -> Result<(), DriverError> {
        let _current = self.device.current()?;
        // SAFETY: the handles are valid.
        self.device
            .check("cuEventRecord", unsafe { (self.device.driver.functions.event_record)(self.handle, stream.0) })
    }

    /// Makes everything that is enqueued in `stream` from now on wait for the event. The host does not wait.
    ///
    /// # Errors
    /// If the driver reports an error.
    ///
    /// # Safety
    /// The stream must be alive.
    pub unsafe fn make_wait(&self, stream: StreamHandle) -> Result<(), DriverError> {
        let _current = self.device.current()?;
        // SAFETY: the handles are valid.
        self.device.check("cuStreamWaitEvent", unsafe {
            (self.device.driver.functions.stream_wait_event)(stream.0, self.handle, 0)
        })
    }

    /// Returns whether everything before the event has run.
    ///
    /// # Errors
    /// If the driver reports an error, also of an earlier kernel.
    pub fn is_passed(&self) -> Result<bool, DriverError> {
        let _current = self.device.current()?;
        // SAFETY: the handle is valid.
        match unsafe { (self.device.driver.functions.event_query)(self.handle) } {
            NOT_READY => Ok(false),
            code => self.device.check("cuEventQuery", code).map(|()| true),
        }
    }

    /// Returns the seconds from `earlier` to this event. Both must be timed, and their streams must have passed them.
    ///
    /// # Errors
    /// If one of the events is not timed or not passed.
    pub fn seconds_since(&self, earlier: &Self) -> Result<f64, DriverError> {
        let _current = self.device.current()?;
        let mut milliseconds = 0.0;
        // SAFETY: the handles and the pointer are valid.
        self.device.check("cuEventElapsedTime", unsafe {
            (self.device.driver.functions.event_elapsed)(&mut milliseconds, earlier.handle, self.handle)
        })?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_current) = self.device.current() {
            // SAFETY: the handle is valid and not used again.
            unsafe { (self.device.driver.functions.event_destroy)(self.handle) };
        }
    }
}
