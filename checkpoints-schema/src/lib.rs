//! The manifest of an Admiral checkpoint: its types and the rules for reading other versions of it.
//!
//! A checkpoint is a folder of safetensors files and a `manifest.json` ([`Manifest`]); beside the folders lies
//! `latest.json` ([`Latest`]). [`Manifest::from_json`] is the only way in: it refuses what a newer Admiral wrote and
//! what contradicts itself. [`json_schemas`] says the same forms to readers in other languages.

mod json_schema;
mod manifest;
mod role;
pub mod safetensors;
mod version;

pub use json_schema::json_schemas;
pub use manifest::{
    Dtype, FileRecord, Latest, Manifest, Owner, Parameter, Process, TensorRecord, TrainingState, Writer,
};
pub use role::Role;
pub use version::{ManifestError, SCHEMA_VERSION};
