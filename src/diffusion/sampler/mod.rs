//! Sampling of images from noise: the table of solvers, their steps, and the loop over all steps.

mod ddim;
mod ddpm;
mod options;
mod pixels;
mod solver;
mod table;
mod trajectory;

pub use options::{SolverError, SolverOption, SolverOptions};
pub use pixels::to_bytes;
pub use solver::{GuidedModel, Level, Solver, Step};
pub use table::{SOLVERS, Sampler, SolverEntry, SolverPlan};
pub use trajectory::Trajectory;
