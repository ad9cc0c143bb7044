//! The part of the CUDA driver's interface that Admiral needs. Devices are used through their primary context, the one
//! that libtorch uses too, so that streams, events and addresses are common to both.

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
