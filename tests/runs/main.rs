//! Runs of the real program on one and more ranks, and other programs that read what it writes.
#![allow(clippy::unwrap_used)]

#[path = "../support/clouds.rs"]
mod clouds;
#[path = "../support/mpirun.rs"]
mod mpirun;
#[path = "../support/runs.rs"]
mod runs;
#[path = "../support/s3.rs"]
mod s3;
#[path = "../support/stores.rs"]
mod stores;

mod black_box;
mod corruption;
mod data;
mod evaluate;
mod images;
mod interchange;
mod inversion;
mod last_release;
mod new;
mod python;
mod refusals;
mod sampling;
mod sweep;
mod tools;
mod train;
mod worlds;
