//! Communication between the ranks of a run.
//!
//! - [`Collective`] is the interface of collective operations: sums, broadcasts, gathers, barriers. [`connect`] returns
//!   [`Mpi`] if an MPI launcher started the process, otherwise [`Single`].
//! - [`agree`] shares failures between ranks, so that a run ends with one message and one exit code ([`Ending`]).
//! - [`PhaseTracker`] records in the progress ledger what this rank is doing, and injects [`faults`] at the same points.
//! - [`buckets`] cuts flat gradient buffers into buckets, and [`BucketTracker`] tracks which of them are ready to be summed.
//!
//! This crate does not depend on a tensor library.

mod agree;
mod bucket_tracker;
pub mod buckets;
mod collective;
mod connect;
mod ending;
mod error;
mod exchange;
pub mod faults;
mod mpi;
mod phase_tracker;
mod single;

pub use admiral_contract::{ExitCode, Phase, print_error};
pub use agree::{agree, any, in_turns};
pub use bucket_tracker::BucketTracker;
pub use collective::Collective;
pub use connect::{MpiLauncher, TaskOfMany, connect, launcher_variables};
pub use ending::{Ending, Failure};
pub use error::CollectiveError;
pub use exchange::Exchange;
pub use faults::{FaultInjector, FaultsConfig};
pub use mpi::Mpi;
pub use phase_tracker::{PhaseTracker, StepSeconds, open_ledger};
pub use single::Single;
