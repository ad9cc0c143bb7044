//! The state of a run: the launcher's file, and `admiral-launch status`.

mod more;
mod show;
mod state;
mod usage;

pub use show::{StatusError, read, span, status};
pub use state::{Condition, Rate, STALE_SECONDS, State};
