//! Checkpoints and sampling jobs on folders and S3: faults of the network, damage, crashes, full disks and memory.
#![allow(clippy::unwrap_used)]

#[path = "../support/crash_walk.rs"]
mod crash_walk;
#[path = "../support/fault_proxy.rs"]
mod fault_proxy;
#[path = "../support/mpirun.rs"]
mod mpirun;
#[path = "../support/runs.rs"]
mod runs;
#[path = "../support/s3.rs"]
mod s3;
#[path = "../support/stores.rs"]
mod stores;

mod crash_points;
mod damage;
mod jobs;
mod s3_faults;
mod save_memory;
mod shards;
