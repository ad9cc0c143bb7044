//! Watching an attempt: the attendants' calls, the group's state, what it shows and writes down.

pub mod hub;
pub mod roster;
