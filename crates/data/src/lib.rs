//! Images for training: sources, decoding, cropping, samples, and the loader that reads ahead.
//!
//! [`open`] opens the sources of a run. A [`SampleReader`] turns their images into batches of samples. A [`Loader`]
//! reads batches ahead of training on several threads.

mod buffers;
mod config;
mod crop;
mod decode;
mod decoding;
mod error;
mod gif_screen;
mod idx;
mod indexed;
mod jpeg;
mod limits;
mod loader;
mod open;
mod passes;
mod pixels;
mod png_repair;
mod resample;
mod sample;
mod source;
#[cfg(test)]
mod test_source;
mod webp_header;
mod windows;

pub use buffers::Buffers;
pub use config::{CacheConfig, ClassSource, DataConfig, OnBrokenImage, SourceKind};
pub use crop::{Draws, RandomCrop, cut, halve, scale_short_side, square};
pub use decode::{decode, decode_for};
pub use decoding::Decoding;
pub use error::DataError;
pub use idx::Idx;
pub use indexed::Indexed;
pub use loader::Loader;
pub use open::{Sources, list_names, open};
pub use pixels::Pixels;
pub use resample::{Rectangle, resize, resize_part};
pub use sample::{Batch, SampleReader, SampleSpec, load_square, load_whole};
pub use source::{ImageSource, Subset};
pub use windows::Filter;
