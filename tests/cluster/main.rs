//! The launcher and its runs on several hosts, which are network namespaces of this machine.
#![allow(clippy::unwrap_used)]

#[path = "../support/bed.rs"]
mod bed;
#[path = "../support/crash_walk.rs"]
mod crash_walk;
#[path = "../support/kills.rs"]
mod kills;
#[path = "../support/mpirun.rs"]
mod mpirun;
#[path = "../support/runs.rs"]
mod runs;
#[path = "../support/s3.rs"]
mod s3;
#[path = "../support/slurm.rs"]
mod slurm_programs;
#[path = "../support/stores.rs"]
mod stores;

mod blocked;
mod chaos;
mod drill;
mod launch;
mod metrics;
mod preflight;
mod report;
mod sampling;
mod slurm;
mod stage;
mod storm;
mod strangers;
