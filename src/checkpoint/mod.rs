//! Checkpoints: whole, verified, published in one stroke, readable at any number of ranks.
//!
//! A place holds `step-000123000/` folders and a `latest.json`. In a folder lie safetensors files, one for each role
//! and writing rank, and `manifest.json`, which is written last: without it the folder is not a checkpoint.
//!
//! Training saves through a [`Saver`]: the step waits for the copy into its buffers alone, and all ranks go on together
//! to publishing what they have written. [`save`] is for what may wait. [`trial`] asks before the first step whether all
//! that will work. `owner.json` keeps a second run away from the place of the first.

mod abandoned;
mod again;
mod agree;
mod config;
mod contents;
mod deletion;
mod encoding;
mod error;
mod events;
mod inventory;
mod layout;
mod location;
mod mortal;
mod owner;
mod read;
mod retention;
mod saver;
mod share;
mod staging;
mod store;
mod trial;
mod upload;
mod write;

pub use admiral_checkpoints_schema::{FileRecord, Manifest, Parameter, Role, TrainingState, Writer};

pub use config::{CheckpointConfig, WhenBusy};
pub use contents::TensorFile;
pub use deletion::{delete, delete_place};
pub use error::Error;
pub use events::{Report, SaveEvent};
pub use inventory::{Entry, Inventory, State};
pub use location::Location;
pub use owner::{Life, OwnerState, identify};
pub use read::{Checkpoint, Newest, RoleTensors, TensorTarget};
pub use retention::{Kept, Retention};
pub use saver::{Saver, SaverPlan};
pub use share::owners;
pub use store::{Store, StoreOptions};
pub use trial::{Expected, Trial, probe, trial};
pub use write::{Content, TensorView, save};
