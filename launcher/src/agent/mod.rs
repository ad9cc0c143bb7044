//! The agent: the process that `mpirun` starts for each rank.
//!
//! The agent starts the rank, watches it, stores its output, reports to the launcher and follows the launcher's orders.
//! If the launcher is gone, the agent ends its rank, so that nothing is left behind.

mod connect;
mod error;
mod outbox;
mod output;
mod process;
mod run;
mod stack;

pub use connect::launcher_addresses;
pub use error::AgentError;
pub use process::{adopt_orphans, end_children, is_daemon};
pub use run::run;
