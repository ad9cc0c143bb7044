//! Sampling of images from noise: single steps of DDPM and DDIM, and the loop over all timesteps.

mod ddim;
mod ddpm;
mod pixels;
mod trajectory;

pub use pixels::to_bytes;
pub use trajectory::{Method, SampleOptions, Step, Trajectory};
