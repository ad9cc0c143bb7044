//! Supervising an attempt: its agents' messages, the state of its ranks, and its `mpirun`.

mod attempt;
mod hub;
mod mpirun;
mod roster;
mod strangers;

pub use attempt::{Attempt, AttemptEnd, AttemptSpec, RankSettings, Vanish, Watcher};
pub use hub::{listen_address, own_addresses};
pub use roster::{Entry, Roster};
pub(crate) use strangers::Strangers;
