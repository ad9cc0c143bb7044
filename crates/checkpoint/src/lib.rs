//! Checkpoints: complete, verified, published in one operation, readable at any world size.
//!
//! A store holds `step-000123000/` folders and a `latest.json`. A step's folder holds safetensors files, one for each role
//! and writing rank, and `manifest.json`, which is written last: without it the folder is not a checkpoint.
//!
//! - Training saves through a [`Saver`]: a step waits only for the copy into its buffers. [`save`] is for callers that may
//!   wait.
//! - [`Catalog`] lists and opens the checkpoints of a store; [`Checkpoint`] reads and verifies one.
//! - [`write_probe`] finds out before the first step whether all ranks can write to the store.
//! - `owner.json` is a lease, which keeps a second run away from the store of the first ([`OwnerState`]).

mod agree;
mod catalog;
mod cleanup;
mod config;
mod contents;
mod deletion;
mod encoding;
mod error;
mod events;
mod faults;
mod huge_pages;
mod inventory;
mod layout;
mod lease;
mod manifests;
mod read;
mod retention;
mod saver;
mod share;
mod staging;
mod staging_files;
#[cfg(test)]
mod testing;
mod write;
mod write_probe;

pub use admiral_checkpoints_schema::{FileRecord, Manifest, Parameter, Role, TrainingState, Writer};

pub use catalog::{Catalog, Newest, find_checkpoint};
pub use config::{CheckpointConfig, WhenBusy};
pub use contents::TensorFile;
pub use deletion::{delete, delete_place};
pub use error::Error;
pub use events::{Report, SaveEvent};
pub use faults::store_faults;
pub use inventory::{Entry, Inventory, State};
pub use lease::{Life, OwnerState, identify};
pub use read::{Checkpoint, RoleTensors, TensorTarget};
pub use retention::{Kept, Retention};
pub use saver::{Saver, SaverPlan};
pub use share::owners;
pub use write::{Content, TensorView, save};
pub use write_probe::{Expected, WriteProbe, probe_from_one_process, write_probe};
