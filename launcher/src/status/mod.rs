//! The state of a run: the launcher's file, and `admiral-launch status`.

mod show;
mod state;

pub use show::{StatusError, read, span, status};
pub use state::{Condition, Rate, STALE_SECONDS, State};
