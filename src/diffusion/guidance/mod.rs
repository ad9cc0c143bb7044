//! Guidance: classifiers and second networks that steer samples. Nothing here depends on the sampler.
//!
//! Classifier guidance is a gradient, which a sampler adds to its step. The other kinds combine the outputs of two
//! networks, and a sampler calls the combination like one network.

mod auto;
mod classifier;
mod extrapolate;
mod free;
mod interpolate;

pub use auto::autoguidance;
pub use classifier::{Gradient, classifier_gradient, interpolated_classifier_gradient};
pub use free::classifier_free_guidance;
pub use interpolate::interpolate;
