//! One group of ranks, as a state machine: events go in, actions come out.

mod event;
mod lifecycle;
mod member;
mod pending;
mod stop;

pub use event::{Event, GroupOptions, Outcome, Output};
pub use lifecycle::Group;
