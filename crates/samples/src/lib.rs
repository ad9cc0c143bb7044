//! The output of a sampling job, in a folder or a bucket: images and labels in parts, one npz file at the end, and PNG files.
//!
//! A job can be killed at any moment and started again. Only missing parts are drawn then, and no file is ever half
//! written. A location holds one job:
//!
//! | file | content |
//! |---|---|
//! | `job.json` | the settings of the job ([`JobSettings`]), written first. A job with other settings is refused |
//! | `parts/part-000012-of-000049.npz` | the images of a part: `arr_0` uint8 `[number, height, width, channels]`, and `arr_1` int64 `[number]` if there are labels |
//! | `parts/part-000012-of-000049.json` | the marker of the part ([`PartRecord`]), written after it. Without it, the part counts as missing |
//! | `samples_50000x64x64x3.npz` | all images in order, with the same arrays |
//! | `manifest.json` | the settings, the parts and the files with their SHA-256 ([`Manifest`]), written last |
//! | `png/000012.png`, `png/0207_000012.png` | optional: an image; 207 is its label |
//!
//! - [`Job`] begins or continues a job, writes its parts, and finishes it. [`parts_of_rank`] divides the missing parts.
//! - [`Images`] reads images of an npz file or of another job.
//! - [`Latents`] and [`LatentsWriter`] read and write the latents of images.

mod error;
mod finish;
mod images;
mod job;
mod latents;
mod layout;
mod npz_file;
mod parts;
mod png;
mod settings;
mod staging;

pub use error::{Difference, Error};
pub use finish::{FileRecord, Manifest, ManifestPart};
pub use images::{Images, LABELS};
pub use job::Job;
pub use latents::{Encoding, Latents, LatentsWriter};
pub use layout::{missing_parts, parts_of_rank};
pub use npz_file::{NpzFile, names_npz};
pub use parts::{Part, PartRecord};
pub use settings::{JobSettings, MAX_PART_BYTES, SCHEMA_VERSION};
