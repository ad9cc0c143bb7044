//! Checkpoints: whole, verified, published in one stroke, readable at any number of ranks.
//!
//! A place holds `step-000123000/` folders and a `latest.json`. In a folder lie safetensors files, one for each role
//! and writing rank, and `manifest.json`, which is written last: without it the folder is not a checkpoint.
//!
//! Writing has three parts, so that the second can move behind the training step: the caller copies to host memory and
//! shows it as [`TensorView`]s; [`write_share`] uploads this rank's files without talking to the others; [`publish`]
//! makes all ranks agree. [`save`] is all of it in a row.

mod agree;
mod config;
mod encoding;
mod error;
mod layout;
mod location;
mod probe;
mod read;
mod share;
mod store;
mod write;

pub use admiral_checkpoints_schema::{Manifest, Parameter, Role, TrainingState};

pub use config::CheckpointConfig;
pub use error::Error;
pub use location::Location;
pub use probe::probe;
pub use read::{Checkpoint, RoleTensors, TensorTarget};
pub use share::owners;
pub use store::Store;
pub use write::{Content, TensorView, WrittenShare, publish, save, write_share};
