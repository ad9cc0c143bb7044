//! Images for training: sources, decoding, cropping, samples, and the loader that reads ahead.
//!
//! [`open`] opens the sources of a run. A [`SampleReader`] turns their images into batches of samples. A [`Loader`]
//! reads batches ahead of training on several threads.

mod broken;
mod buffers;
mod classes;
mod config;
mod crop;
mod decode;
mod decoding;
mod error;
mod fetched;
mod gif;
mod gif_lzw;
mod header;
mod idx;
mod idx_file;
mod indexed;
mod jpeg;
mod jpeg_encode;
mod limits;
mod loader;
mod memory;
mod open;
mod overview;
mod passes;
mod pixels;
mod planes;
mod png;
mod png_repair;
mod pnm;
mod resample;
mod sample;
mod source;
#[cfg(test)]
mod test_source;
mod webp;
mod webp_header;
mod windows;

pub use broken::BrokenImage;
pub use buffers::Buffers;
pub use config::{CacheConfig, ClassSource, DataConfig, OnBrokenImage, OnChangedImages, SourceKind};
pub use crop::{Draws, RandomCrop, cut, halve, scale_short_side, square};
pub use decode::{decode, decode_for, into_pixels};
pub use decoding::Decoding;
pub use error::DataError;
pub use fetched::{Cropping, Reduction, decode_fetched};
pub use header::{Format, read_header};
pub use idx::Idx;
pub use indexed::Indexed;
pub use jpeg_encode::encode_jpeg;
pub use loader::Loader;
pub use open::{Sources, list_names, open, open_with_any_classes};
pub use overview::{class_sizes, spaced_items};
pub use pixels::Pixels;
pub use resample::{Rectangle, resize, resize_part};
pub use sample::{Batch, SampleReader, SampleSpec, load_square, load_whole};
pub use source::{ImageSource, Subset, digest_of};
pub use windows::Filter;
