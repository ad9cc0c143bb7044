//! Sampling: images from a network and a process, on any number of ranks.

mod config;
mod draw;

pub use config::{Sampler, SamplingConfig};
pub use draw::{Request, draw, draw_on_all_ranks, grid_labels};
