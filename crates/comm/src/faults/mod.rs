//! Fault injection: a run crashes, hangs or slows down its own ranks at a chosen step, so that tests and drills can check
//! that it recovers. It is off by default.

mod config;
mod injector;

pub use config::{BadValue, FaultPhase, FaultsConfig};
pub use injector::{Damage, FaultInjector};
