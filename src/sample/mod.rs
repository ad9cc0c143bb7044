//! Sampling of images from networks and diffusion processes, on any number of ranks.

mod error;
mod image_batches;
mod job;
mod labels;
mod loaded;
mod low_res;
mod stage;
mod watch;

pub use error::Error;
pub use image_batches::{ImageBatch, ImageBatches, SampleRequest, Stages, gather_images};
pub use job::{Drawn, JobContext, draw_missing};
pub use labels::{Labels, grid_labels, rows};
pub use loaded::{Identity, LoadedModel, OpenedModel, choose_role};
pub use low_res::{LowRes, low_res_examples};
pub use stage::{BatchInputs, Guidance, Stage, Weights, images_of, pixels_of};
pub use watch::{Part, Unwatched, Watch};
