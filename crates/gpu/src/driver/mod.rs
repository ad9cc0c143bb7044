//! The part of the CUDA driver API that Admiral uses.
//!
//! Devices are used through their primary context. libtorch uses the same context, so streams, events and addresses can
//! be exchanged with it.

mod api;
mod device;
mod error;
mod module;
mod stream;

pub use api::{Driver, FUNCTIONS};
pub use device::Device;
pub use error::DriverError;
pub use module::{DeviceMemory, Function, Module};
pub use stream::{Event, Stream, StreamHandle};
