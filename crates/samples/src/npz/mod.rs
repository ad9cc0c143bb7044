//! The npz format: a zip archive with one npy file for each array.

mod header;
mod read;
mod source;
mod write;

pub use read::{NpzImages, read_labels};
pub(crate) use write::Archive;
pub use write::npz_of;
