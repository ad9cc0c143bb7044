//! The preflight: what is wrong with the hosts of a run, before the run finds out.
//!
//! [`reach`] asks each host through the remote agent that `mpirun` will use, since a single host that does not answer
//! brings `mpirun` down as a whole, or makes it wait for ever. [`gather`] starts a probe on every host that answered,
//! under one `mpirun`, and hears them over TCP. [`compare`] turns their answers into findings; [`receipt`] is what
//! people and programs get to see.
//!
//! What is compared of the programs: SHA-256 of all of `admiral`, `admiral-launch` and the configuration's file; of
//! libtorch's files, which are too large for that, the length and the linker's build id, or where there is none a hash
//! of 33 pieces of 64 KiB.

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
pub use compare::{Finding, Network, Severity};
pub use examine::{examine, probe, unreachable};
pub use exchange::Clock;
pub use receipt::{GpuRow, HostReport, HostRow, Receipt};
pub use request::{DoctorError, ExamineRequest};
