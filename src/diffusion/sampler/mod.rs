//! Sampling of images from noise: the table of solvers, their steps, and the loop over all steps.

#[cfg(test)]
mod conformance;
mod ddim;
mod ddpm;
mod deis;
mod evaluation;
mod heun;
mod levels;
mod multistep;
mod options;
mod pixels;
mod singlestep;
mod solver;
mod table;
mod trajectory;
mod unipc;
mod update;

pub use levels::{Level, NoiseLevels, TimeGrid};
pub use options::{Churn, DynamicThresholding, NoiseRange, SolverError, SolverOption, SolverOptions};
pub use pixels::to_bytes;
pub use solver::{GuidedModel, Solver, Step};
pub use table::{SOLVERS, Sampler, SolverEntry, SolverPlan};
pub use trajectory::Trajectory;
pub use update::{Interpolated, SolverType};
