//! Watching an attempt: the agents' calls, the group's state, what it shows and writes down.

mod attempt;
mod hub;
mod mpirun;
mod roster;

pub use attempt::{Attempt, AttemptEnd, AttemptSpec, RankSettings, Vanish, Watcher};
pub use hub::own_addresses;
pub use roster::{Entry, Roster};
