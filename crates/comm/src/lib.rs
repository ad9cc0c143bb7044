//! Communication between the ranks of a run.
//!
//! - [`Collective`] is what ranks do together: sums, broadcasts, gathers, barriers. [`connect`] returns the one that fits
//!   how the process was started: [`Mpi`] under `mpirun`, otherwise [`Single`].
//! - [`agree`] shares failures, so that a run ends with one message and one exit code ([`Ending`]).
//! - [`PhaseTracker`] records in the progress ledger what this rank does, and lets injected [`faults`] strike there.
//! - [`buckets`] cuts flat gradient buffers into buckets, and [`BucketTracker`] knows which of them are ready to be summed.
//!
//! Nothing here knows tensors.

mod agree;
mod bucket_tracker;
pub mod buckets;
mod collective;
mod connect;
mod ending;
mod error;
pub mod faults;
mod mpi;
mod phase_tracker;
mod single;

pub use admiral_contract::{ExitCode, Phase};
pub use agree::{agree, any};
pub use bucket_tracker::BucketTracker;
pub use collective::Collective;
pub use connect::{MpiLauncher, connect};
pub use ending::{Ending, Failure, print_error};
pub use error::CollectiveError;
pub use faults::{FaultInjector, FaultsConfig};
pub use mpi::Mpi;
pub use phase_tracker::{Exchange, PhaseTracker, StepSeconds, open_ledger};
pub use single::Single;
