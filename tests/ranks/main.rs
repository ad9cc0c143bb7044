//! What ranks do together, what their ledgers show to other processes, and the device that they run on.
#![allow(clippy::unwrap_used)]

#[path = "../support/mpirun.rs"]
mod mpirun;
#[path = "../support/runs.rs"]
mod runs;

mod collective;
mod collective_suite;
mod device;
mod ledger;
