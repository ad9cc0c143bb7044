//! `admiral-launch run` and `sample`: make attempts until the job is finished or cannot continue.

mod commands;
mod error;
mod export;
mod job;
mod launch;
mod options;
mod plan;
mod preflight;
mod recorder;
mod reporter;
mod settings;
mod sweep;

pub use commands::{doctor, dry_run, run};
pub use error::LaunchError;
pub use job::Job;
pub(crate) use options::seconds;
pub use options::{HostOptions, LaunchOptions, RunOptions, SampleOptions};
pub use plan::LaunchPlan;
pub use settings::Settings;
pub use sweep::{SWEPT, sweep_here};
