//! The npz format: a zip archive with one npy file for each array.

mod floats;
mod header;
mod read;
mod source;
mod write;

pub use floats::{FloatArray, read_floats};
pub use read::{NpzImages, read_labels};
pub(crate) use write::Archive;
pub use write::npz_of;
