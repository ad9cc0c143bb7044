//! Where a run stands: what the launcher writes down, and `admiral-launch status`.

mod show;
mod state;

pub use show::{StatusError, read, span, status};
pub use state::{Condition, Rate, STALE_SECONDS, State};
