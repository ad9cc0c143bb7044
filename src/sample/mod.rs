//! Sampling of images from networks and diffusion processes, on any number of ranks.

mod batches;
mod error;
mod given_images;
mod image_batches;
mod interpolation;
mod inversion;
mod job;
mod labels;
mod likelihood;
mod loaded;
mod noise;
mod stage;
mod watch;

pub use batches::{gather_agreed, gather_batches, numbers_from_root};
pub use error::Error;
pub use given_images::{GivenImages, low_res_examples};
pub use image_batches::{ImageBatch, ImageBatches, SampleRequest, Stages, gather_images};
pub use interpolation::Interpolation;
pub use inversion::Inversion;
pub use job::{Drawn, JobContext, draw_missing};
pub use labels::{Labels, grid_labels, rows};
pub use likelihood::Likelihood;
pub use loaded::{Identity, LoadedModel, OpenedModel, choose_role};
pub use stage::{BatchInputs, Guidance, Stage, Weights, images_of, pixels_of};
pub use watch::{Part, Unwatched, Watch};
