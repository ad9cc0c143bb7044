//! Saves and loads checkpoints. A checkpoint is published atomically, verified by checksums, and readable at any world size.
//!
//! A store holds `step-000123000/` folders and a `latest.json`. The folder of a step holds safetensors files, one for each
//! role and writing rank, and `manifest.json`. The manifest is written last. A folder without it is not a checkpoint.
//!
//! - [`Saver`] saves in the background: a training step waits only for the copy into its buffers. [`save`] blocks until the
//!   checkpoint is published.
//! - [`Catalog`] lists and opens the checkpoints of a store. [`Checkpoint`] reads and verifies one.
//! - [`write_probe`] checks before the first step whether all ranks can write to the store.
//! - `owner.json` is a lease that prevents two runs from writing to the same store ([`OwnerState`]).

mod agree;
mod attempt;
mod catalog;
mod cleanup;
mod config;
mod contents;
mod deletion;
mod encoding;
mod error;
mod evaluations;
mod events;
mod faults;
mod huge_pages;
mod inventory;
mod layout;
mod lease;
mod manifests;
mod owner;
mod read;
mod retention;
mod save_job;
mod saver;
mod share;
mod staging;
mod staging_files;
#[cfg(test)]
mod testing;
mod write;
mod write_probe;

pub use admiral_checkpoints_schema::{
    Evaluation, EvaluationRecord, FileRecord, ImagesRecord, Manifest, Parameter, Role, TrainingState,
    WeightsEvaluation, Writer,
};

pub use attempt::identify;
pub use catalog::{Catalog, Newest, find_checkpoint};
pub use config::{CheckpointConfig, WhenBusy};
pub use contents::TensorFile;
pub use deletion::{delete, delete_place};
pub use error::Error;
pub use events::{Report, SaveEvent};
pub use faults::store_faults;
pub use inventory::{Entry, Inventory, State};
pub use owner::OwnerState;
pub use read::{Checkpoint, RoleTensors, TensorTarget};
pub use retention::{Kept, Retention, Score};
pub use saver::{Saver, SaverSettings};
pub use share::owners;
pub use write::{Content, TensorView, save};
pub use write_probe::{Expected, WriteProbe, probe_from_one_process, write_probe};
