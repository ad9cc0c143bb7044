//! Faults that a run inflicts on itself, so that tests and drills can prove that it survives them. They are off by
//! default, and are configured in one section.

mod config;
mod injector;

pub use config::{FaultsConfig, StrikePhase};
pub use injector::FaultInjector;
