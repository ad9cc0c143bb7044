//! Sampling of images from a network and a diffusion process, on any number of ranks.

mod image_batches;
mod request;

pub use image_batches::{ImageBatch, ImageBatches, SamplingModel};
pub use request::{SampleRequest, grid_labels};
