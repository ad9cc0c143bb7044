//! Checkpoints on folders and S3: reading and writing, faults of the network, damage, crashes and memory.
#![allow(clippy::unwrap_used)]

#[path = "../support/crash_walk.rs"]
mod crash_walk;
#[path = "../support/mpirun.rs"]
mod mpirun;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/runs.rs"]
mod runs;
#[path = "../support/s3.rs"]
mod s3;
#[path = "../support/stores.rs"]
mod stores;

mod checkpoint;
mod crash_points;
mod damage;
mod fault_proxy;
mod s3_faults;
mod save_memory;
