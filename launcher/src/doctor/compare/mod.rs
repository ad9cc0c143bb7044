//! Problems of a set of hosts, found in their reports. Pure: the same answers give the same findings.

mod answer;
mod checks;
mod environment;
mod finding;
#[cfg(test)]
pub(crate) mod fixtures;
mod gpus;
pub(crate) mod hosts;
mod majority;
pub mod network;
mod programs;

pub use answer::{Answer, Needs};
pub use checks::compare;
pub use finding::{Finding, Severity};
pub use network::Network;
