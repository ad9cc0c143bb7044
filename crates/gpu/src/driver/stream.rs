//! Streams, and marks in them.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;
use std::sync::Arc;

use super::api::Handle;
use super::device::Device;
use super::error::DriverError;

const NOT_READY: c_int = 600;
const STREAM_NON_BLOCKING: c_uint = 1;
const EVENT_DISABLE_TIMING: c_uint = 2;

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
