//! The process that `mpirun` starts for each rank.

mod connect;
mod error;
mod output;
mod process;
mod run;
mod stack;

pub use error::AgentError;
pub use process::{adopt_orphans, end_children, is_daemon};
pub use run::run;
