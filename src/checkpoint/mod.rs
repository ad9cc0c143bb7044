//! Checkpoints: whole, verified, published in one stroke, readable at any number of ranks.
//!
//! A place holds `step-000123000/` folders and a `latest.json`. In a folder lie safetensors files, one for each role
//! and writing rank, and `manifest.json`, which is written last: without it the folder is not a checkpoint.

mod config;
mod error;
mod location;

pub use config::CheckpointConfig;
pub use error::Error;
pub use location::Location;
