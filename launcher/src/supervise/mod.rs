//! Supervising an attempt: its agents' messages, the state of its ranks, and its `mpirun`.

mod attempt;
mod hub;
mod mpirun;
mod roster;

pub use attempt::{Attempt, AttemptEnd, AttemptSpec, RankSettings, Vanish, Watcher};
pub use hub::own_addresses;
pub use roster::{Entry, Roster};
