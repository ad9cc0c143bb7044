//! The interface of collective operations.

use crate::error::CollectiveError;
use admiral_contract::ExitCode;

/// The ranks of a run, as seen from one of them.
///
/// Every rank must call the methods in the same order, and with arguments of the same length if the method says so. If a
/// rank leaves out a call, the others block forever. The exceptions are [`rank`](Self::rank),
/// [`world_size`](Self::world_size), [`local_rank`](Self::local_rank), [`sendrecv`](Self::sendrecv) and
/// [`abort`](Self::abort), which involve fewer ranks.
pub trait Collective: Send + Sync {
    /// Returns this rank, in `0..world_size`.
    fn rank(&self) -> usize;

    /// Returns the number of ranks.
    fn world_size(&self) -> usize;

    /// Returns the index of this rank among the ranks of its host, which is also the index of its GPU.
    fn local_rank(&self) -> usize;

    /// Replaces every value by its sum over the ranks. `values` has the same length on every rank.
    ///
    /// The result is bitwise equal on all ranks, and in all runs with the same world size. Bit-exact resumption depends on
    /// this, and so do the master parameters, which stay equal on all ranks without being sent. An infinity or NaN on one
    /// rank becomes an infinity or NaN on all ranks.
    ///
    /// # Errors
    /// If the transport fails. The contents of `values` are then undefined.
    fn all_reduce_sum_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// [`all_reduce_sum_f32`](Self::all_reduce_sum_f32) for a background thread. The sums are the same, but the ledger
    /// does not show the rank inside an exchange. The caller counts the exchange with
    /// [`PhaseTracker::count_exchange`](crate::PhaseTracker::count_exchange).
    ///
    /// # Errors
    /// If the transport fails. The contents of `values` are then undefined.
    fn background_all_reduce_sum_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// [`all_reduce_sum_f32`](Self::all_reduce_sum_f32) in double precision, for statistics.
    ///
    /// # Errors
    /// If the transport fails. The contents of `values` are then undefined.
    fn all_reduce_sum_f64(&self, values: &mut [f64]) -> Result<(), CollectiveError>;

    /// Replaces `bytes` by the bytes of `root`. The length may differ before the call.
    ///
    /// # Errors
    /// If `root` is not a rank, or the transport fails.
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<(), CollectiveError>;

    /// Gathers the bytes of all ranks on `root`. Their lengths may differ. Returns them in rank order on `root`, and
    /// `None` on the other ranks.
    ///
    /// # Errors
    /// If `root` is not a rank, or the transport fails.
    fn gather(&self, root: usize, bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>, CollectiveError>;

    /// Gathers the bytes of all ranks on all ranks, and returns them in rank order. Their lengths may differ.
    ///
    /// # Errors
    /// If the transport fails.
    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError>;

    /// Blocks until every rank has called it.
    ///
    /// # Errors
    /// If the transport fails.
    fn barrier(&self) -> Result<(), CollectiveError>;

    /// [`barrier`](Self::barrier) for a background thread. It sleeps between polls, so that it does not take a core from
    /// training, and it does not change the ledger.
    ///
    /// # Errors
    /// If the transport fails.
    fn background_barrier(&self) -> Result<(), CollectiveError>;

    /// Exchanges `bytes` with `peer`, which must call this with this rank and the same number of bytes. Other ranks do
    /// not take part. Used to measure the connection between two ranks.
    ///
    /// # Errors
    /// If `peer` is not a rank, or the transport fails.
    fn sendrecv(&self, peer: usize, bytes: &mut [u8]) -> Result<(), CollectiveError>;

    /// Ends all ranks immediately. For a rank whose failure the others do not know of, because they would wait for it
    /// forever in the next collective. The launcher exits with `code`.
    fn abort(&self, code: ExitCode) -> !;
}
