//! `admiral-launch run`: makes attempts until the run is finished or cannot continue.

mod commands;
mod error;
mod launch;
mod options;
mod plan;
mod preflight;
mod recorder;
mod settings;
mod sweep;

pub use commands::{doctor, dry_run, run};
pub use error::LaunchError;
pub(crate) use options::seconds;
pub use options::{HostOptions, RunOptions};
pub use plan::LaunchPlan;
pub use sweep::{SWEPT, sweep_here};
