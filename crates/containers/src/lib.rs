//! Containers of images: folders, tar shards, zip and npz files, LMDB databases and Parquet files, on a local disk or
//! in an object store.
//!
//! [`Container::open`] finds the files of a container and makes an [`Index`] of its images, or reads the one that an
//! earlier run has kept. With the index, [`Container::fetch`] reads any image by one read of a range of bytes. Images
//! are in the order of their names, compared byte by byte, so the order does not depend on the container.
//!
//! Files are not trusted. All offsets and lengths are checked against the lengths of the files before anything is read,
//! and what is read is compared with the checksum in the index.

mod blob;
mod cache;
mod container;
mod dali;
mod error;
mod fetched;
mod files;
mod find;
mod index;
mod index_file;
mod kind;
mod left_out;
mod limits;
mod lmdb;
mod make;
mod names;
mod npz;
mod parquet;
mod place;
mod tar;
mod tree;
mod zip;

#[cfg(test)]
#[path = "../tests/writers/mod.rs"]
mod writers;

pub use container::{Container, Settings};
pub use error::Error;
pub use fetched::Fetched;
pub use files::{may_pass, retry};
pub use index::{Encoding, Found, Index, Label, Labels, Shard};
pub use kind::Kind;
pub use limits::{MAX_IMAGE_BYTES, MAX_PIXELS};
pub use names::{is_hidden, is_image_name, shown};
pub use place::names_a_file;
pub use tar::{CLASS_NAMES, MAX_LABEL_BYTES, NUM_CLASSES, PACKED_FROM};
