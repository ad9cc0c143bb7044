//! Faults that a run does to itself, so that its survival can be proved: one section of the configuration, off by
//! default. The modules that a fault strikes look here for whether it is wanted.

mod config;
mod strike;

pub use config::{FaultsConfig, StrikePhase};
pub use strike::{Strike, arm, armed};
