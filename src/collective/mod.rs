//! What ranks do together: sums, broadcasts, gathers, barriers, and going down as one.
//!
//! [`connect`] gives the [`Collective`] that fits how the process was started. Everything here but
//! [`Collective::abort`] is called by every rank in the same order: a call that one rank leaves out makes
//! the others wait for ever.

mod agree;
mod buckets;
mod error;
mod gradients;
mod launch;
mod mpi;
mod nccl;
mod readiness;
mod single;
#[cfg(test)]
mod twins;

pub use agree::{Ending, Failure, agree, any};
pub use buckets::{BYTES_PER_VALUE, Bucket, Slot, cut, default_bucket_bytes};
pub use error::CollectiveError;
pub use gradients::{GradientReducer, Reduced};
pub use launch::connect;
pub use mpi::Mpi;
pub use nccl::GpuSums;
pub use readiness::Readiness;
pub use single::Single;

use crate::exit::ExitCode;

/// The name of this host; empty where the system does not say.
#[must_use]
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// The ranks of one run, as seen from one of them.
///
/// All methods but [`abort`](Self::abort), [`swap`](Self::swap) and the three that name this rank must be called by every
/// rank, in the same order, with arguments of the same length where the text says so.
pub trait Collective: Send + Sync {
    /// This rank: `0..world_size`.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn world_size(&self) -> usize;

    /// This rank's place among the ranks of its host, which is the number of the GPU it takes.
    fn local_rank(&self) -> usize;

    /// Replaces every value by its sum over the ranks. `values` has the same length on every rank.
    ///
    /// All ranks get the same bits, and the same world gets the same bits in every run: resuming bit-exactly
    /// and masters that stay equal without being sent both stand on this. Inf and NaN of one rank come out as
    /// Inf or NaN on all.
    ///
    /// # Errors
    /// When the transport fails. The contents of `values` are then undefined.
    fn all_reduce_sum_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// [`all_reduce_sum_f32`](Self::all_reduce_sum_f32) in double precision, for statistics.
    ///
    /// # Errors
    /// When the transport fails. The contents of `values` are then undefined.
    fn all_reduce_sum_f64(&self, values: &mut [f64]) -> Result<(), CollectiveError>;

    /// Replaces `bytes` by those of `root`, whose length they take.
    ///
    /// # Errors
    /// When `root` is no rank, or the transport fails.
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<(), CollectiveError>;

    /// Brings the bytes of all ranks, of any lengths, to `root`: there `Some`, in the order of ranks;
    /// `None` elsewhere.
    ///
    /// # Errors
    /// When `root` is no rank, or the transport fails.
    fn gather(&self, root: usize, bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>, CollectiveError>;

    /// Brings the bytes of all ranks, of any lengths, to all ranks, in the order of ranks.
    ///
    /// # Errors
    /// When the transport fails.
    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError>;

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// When the transport fails.
    fn barrier(&self) -> Result<(), CollectiveError>;

    /// [`barrier`](Self::barrier) for a thread in the background: it leaves the processor to the rank's own work while
    /// it waits.
    ///
    /// # Errors
    /// When the transport fails.
    fn rendezvous(&self) -> Result<(), CollectiveError>;

    /// Replaces `bytes` by those of `peer`, which calls it with this rank and as many bytes at the same time. For
    /// measuring the way between two ranks; of the others none has to take part.
    ///
    /// # Errors
    /// When `peer` is no rank, or the transport fails.
    fn swap(&self, peer: usize, bytes: &mut [u8]) -> Result<(), CollectiveError>;

    /// Ends every rank at once, whatever they do. For a rank that fails alone: the others cannot know, and
    /// would wait for it in the next collective. The launcher ends with `code`.
    fn abort(&self, code: ExitCode) -> !;
}
