//! The npz format: a zip archive with one npy file for each array.
//!
//! - [`Npz`] reads the arrays of a file: labels and floating-point numbers. [`NpzImages`] reads images one after another.
//! - [`Archive`] writes images and labels front to back. [`npz_of`] makes a file of vectors.
//!
//! Files are not trusted. A file that claims more than its length allows is refused, pickles are never
//! executed, and the memory that a read takes is bounded: at most 2^24 labels and 2^26 floating-point numbers of an array
//! are read, and of images only those that are asked for.

mod error;
mod file;
mod floats;
mod header;
mod images;
mod labels;
mod objects;
mod source;
mod write;

pub use error::Error;
pub use file::Npz;
pub use floats::FloatArray;
pub use images::NpzImages;
pub use source::ReadAt;
pub use write::{Archive, npz_of};
