//! Sampling of images from noise: single steps of DDPM and DDIM, guidance, and the loop over all timesteps.

mod ddim;
mod ddpm;
mod guidance;
mod pixels;
mod trajectory;

pub use guidance::{Gradient, classifier_gradient};
pub use pixels::to_bytes;
pub use trajectory::{Method, SampleOptions, Step, Trajectory};
