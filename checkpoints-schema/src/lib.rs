//! The types of the JSON files that describe Admiral checkpoints, and the rules for reading older versions.
//!
//! A checkpoint is a folder with safetensors files and a `manifest.json` ([`Manifest`]). The folder that holds the
//! checkpoints of a run also has a `latest.json` ([`Latest`]) and an `owner.json` ([`Owner`]). A checkpoint that has
//! been evaluated has an `evaluation.json` ([`EvaluationRecord`]). Manifests are read with
//! [`Manifest::from_json`], which refuses manifests of a newer Admiral and inconsistent ones. [`json_schemas`]
//! describes the files for readers in other languages.

mod evaluation;
mod json_schema;
mod manifest;
mod role;
pub mod safetensors;
mod version;

pub use evaluation::{Evaluation, EvaluationRecord, WeightsEvaluation};
pub use json_schema::json_schemas;
pub use manifest::{
    Dtype, FileRecord, ImagesRecord, Latest, Manifest, Owner, Parameter, Process, TensorRecord, TrainingState, Writer,
};
pub use role::Role;
pub use version::{ManifestError, SCHEMA_VERSION};
