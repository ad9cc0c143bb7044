//! The diffusion process: noise schedules, respacing, losses, samplers of images, guidance, and samplers of training timesteps.
//!
//! The code here draws no random numbers. Callers pass noise and uniform numbers, so that results depend on inputs
//! only.

mod bits_per_dim;
mod config;
mod guidance;
mod likelihood;
mod losses;
mod posterior;
mod process;
mod respacing;
mod sampler;
mod schedule;
#[cfg(test)]
mod test_noise;
mod timestep_sampler;

pub use bits_per_dim::BitsPerDimension;
pub use config::{DiffusionConfig, LossType, NoiseSchedule, Prediction, TimestepSamplerType, Variance};
pub use guidance::{
    Gradient, autoguidance, classifier_free_guidance, classifier_gradient, interpolate,
    interpolated_classifier_gradient,
};
pub use losses::TrainingLosses;
pub use posterior::{Denoising, Gaussian, Reverse};
pub use process::{GaussianDiffusion, Model, copy_to_device};
pub use respacing::{RespacingError, respaced_betas, retained_timesteps};
pub use sampler::{
    Churn, DynamicThresholding, GuidedModel, Interpolated, Level, NoiseLevels, NoiseRange, SOLVERS, Sampler, Solver,
    SolverEntry, SolverError, SolverOption, SolverOptions, SolverPlan, SolverType, Step, TimeGrid, Trajectory,
    to_bytes,
};
pub use schedule::{Schedule, betas};
pub use timestep_sampler::{DrawnTimesteps, LossSecondMoment, StateError, TimestepSampler, TimestepSamplerState};
