//! The interface of everything that ranks do together.

use crate::error::CollectiveError;
use admiral_contract::ExitCode;

/// The ranks of one run, as seen from one of them.
///
/// Every rank must call the methods in the same order, with arguments of the same length where the text says so; a call
/// that one rank leaves out blocks the others forever. Exceptions are [`abort`](Self::abort),
/// [`sendrecv`](Self::sendrecv), and the three methods that identify this rank.
pub trait Collective: Send + Sync {
    /// This rank: `0..world_size`.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn world_size(&self) -> usize;

    /// The index of this rank among the ranks of its host, which is the index of its GPU.
    fn local_rank(&self) -> usize;

    /// Replaces every value by its sum over the ranks. `values` has the same length on every rank.
    ///
    /// All ranks get the same bits, and the same world size gets the same bits in every run. Bit-exact resumption and
    /// master parameters that stay equal without being sent depend on this. An infinity or NaN of one rank becomes an
    /// infinity or NaN on all ranks.
    ///
    /// # Errors
    /// When the transport fails. The contents of `values` are then undefined.
    fn all_reduce_sum_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// [`all_reduce_sum_f32`](Self::all_reduce_sum_f32) for a thread beside the main one: the same sums, but the ledger
    /// does not show the rank inside an exchange. The caller counts it with
    /// [`PhaseTracker::count_exchange`](crate::PhaseTracker::count_exchange).
    ///
    /// # Errors
    /// When the transport fails. The contents of `values` are then undefined.
    fn background_all_reduce_sum_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// [`all_reduce_sum_f32`](Self::all_reduce_sum_f32) in double precision, for statistics.
    ///
    /// # Errors
    /// When the transport fails. The contents of `values` are then undefined.
    fn all_reduce_sum_f64(&self, values: &mut [f64]) -> Result<(), CollectiveError>;

    /// Replaces `bytes` by those of `root`, including their length.
    ///
    /// # Errors
    /// When `root` is not a rank, or the transport fails.
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<(), CollectiveError>;

    /// Gathers the bytes of all ranks, of any lengths, on `root`. Returns them in rank order on `root`, and `None` on the
    /// other ranks.
    ///
    /// # Errors
    /// When `root` is not a rank, or the transport fails.
    fn gather(&self, root: usize, bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>, CollectiveError>;

    /// Gathers the bytes of all ranks, of any lengths, on all ranks, in rank order.
    ///
    /// # Errors
    /// When the transport fails.
    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError>;

    /// Blocks until every rank has called it.
    ///
    /// # Errors
    /// When the transport fails.
    fn barrier(&self) -> Result<(), CollectiveError>;

    /// [`barrier`](Self::barrier) for a thread beside the main one. It sleeps while it waits, so that it leaves the
    /// processor to the rank's own work, and it does not change the ledger.
    ///
    /// # Errors
    /// When the transport fails.
    fn background_barrier(&self) -> Result<(), CollectiveError>;

    /// Exchanges `bytes` with `peer`, which calls it with this rank and the same number of bytes at the same time. Other
    /// ranks take no part. It measures the connection between two ranks.
    ///
    /// # Errors
    /// When `peer` is not a rank, or the transport fails.
    fn sendrecv(&self, peer: usize, bytes: &mut [u8]) -> Result<(), CollectiveError>;

    /// Ends every rank at once, whatever it is doing. For a rank that fails alone: the others cannot know, and would wait
    /// for it in the next collective. The launcher exits with `code`.
    fn abort(&self, code: ExitCode) -> !;
}
