//! One group of ranks: what happens to it goes in, what is to be done comes out.

mod event;
mod lifecycle;
mod member;
mod stop;

pub use event::{Event, GroupOptions, Outcome, Output};
pub use lifecycle::Group;
