//! The preflight: finds problems of a run's hosts before the run does.
//!
//! - `reach` asks each host through the remote agent that `mpirun` will use, because one host that does not answer
//!   makes `mpirun` fail as a whole, or wait for ever.
//! - `gather` starts a probe on every host that answered, under one `mpirun`, and receives the reports over TCP.
//! - [`compare`] turns the reports into findings.
//! - `receipt` presents the result to people and programs.
//!
//! Programs are compared by SHA-256 of `admiral`, `admiral-launch` and the configuration's file. The files of libtorch
//! are too large for that, so they are compared by length and the linker's build id, or without one by a hash of 33
//! pieces of 64 KiB.

mod bandwidth;
pub mod compare;
mod examine;
mod exchange;
mod gather;
pub mod probe;
mod reach;
mod receipt;
mod request;
mod short_mpirun;

pub use bandwidth::{Bandwidth, Link};
pub(crate) use compare::hosts::format_bytes;
pub use compare::{Finding, Network, Severity};
pub use examine::{examine, probe, unreachable};
pub use exchange::Clock;
pub use receipt::{GpuRow, HostReport, HostRow, Receipt};
pub use request::{DoctorError, ExamineRequest};
