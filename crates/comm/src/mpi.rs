//! Collective operations of ranks under an MPI launcher, with the `mpi` crate.
//!
//! The crate initializes and finalizes MPI. The collectives use its C interface, because its safe interface discards the
//! return codes of MPI.

use std::ffi::{c_int, c_void};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mpi::Threading;
use mpi::environment::Universe;
use mpi::ffi;

use admiral_contract::{ExitCode, Ledger, Phase};

use crate::collective::Collective;
use crate::error::CollectiveError;
use crate::exchange::Exchange;

/// The largest number of bytes in one MPI call. MPI counts in `i32`, so that long messages must be cut anyway. This size
/// keeps the staging memory small without being slower.
const CHUNK_BYTES: usize = 4 << 20;

/// The first pause between two polls of a background barrier. Each pause is twice the one before. MPI's blocking barrier
/// would keep a core busy, and each poll takes time from the backward pass.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
/// The longest pause between two polls of a background barrier.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// A sum of up to this many bytes over all ranks is one all-gather, which has the lowest latency. A larger sum is a
/// reduce-scatter and an all-gather, which have the highest bandwidth.
const SMALL_SUM_BYTES: usize = 64 << 10;

/// The ranks that an MPI launcher started.
///
/// **Threads.** MPI is initialized with `MPI_THREAD_MULTIPLE` and must grant at least `MPI_THREAD_SERIALIZED`. A mutex
/// serializes the collectives, so that any thread may call them while another computes. The caller ensures that the
/// order of calls is the same on every rank. `MPI_THREAD_MULTIPLE` allows [`Collective::abort`] while another thread is
/// inside a collective.
///
/// **Sums** are computed in the order of ranks, ((r0 + r1) + r2) + ..., either by one rank or by all ranks in the same
/// way. All ranks therefore get the same bits in every run, and the result does not depend on the length of the message
/// or on the position in it: another bucket size changes no bit. `MPI_Allreduce` does not guarantee this.
///
/// **The ledger** shows during each collective that the rank is inside it, so that a rank that has not arrived can be
/// distinguished from those that wait for it.
///
/// **Dropping** it finalizes MPI, which blocks until all ranks arrive. A rank that fails alone must
/// [`abort`](Collective::abort) instead. If it is dropped by a panic, it aborts.
pub struct Mpi {
    rank: usize,
    world_size: usize,
    local_rank: usize,
    calls: Mutex<()>,
    ledger: Arc<Ledger>,
    /// Finalizes MPI when it is dropped.
    _universe: Universe,
}

/// A number type that MPI can send and ranks can sum.
trait Summand: Copy + Default + std::ops::AddAssign {
    /// Returns the MPI datatype.
    fn datatype() -> ffi::MPI_Datatype;
}

impl Summand for f32 {
    fn datatype() -> ffi::MPI_Datatype {
        // SAFETY: a constant that the C shim initializes statically.
        unsafe { ffi::RSMPI_FLOAT }
    }
}

impl Summand for f64 {
    fn datatype() -> ffi::MPI_Datatype {
        // SAFETY: as above.
        unsafe { ffi::RSMPI_DOUBLE }
    }
}

fn byte_type() -> ffi::MPI_Datatype {
    // SAFETY: a constant that the C shim initializes statically.
    unsafe { ffi::RSMPI_UINT8_T }
}

fn world() -> ffi::MPI_Comm {
    // SAFETY: a constant that the C shim initializes statically.
    unsafe { ffi::RSMPI_COMM_WORLD }
}

/// Converts a count for MPI. Every count is at most a chunk size or the number of ranks.
fn count(n: usize) -> c_int {
    c_int::try_from(n).expect("chunks are far below 2^31")
}

/// Returns the address of a slice, or null if it is empty. Rust gives an empty slice of bytes the address 1, which is the
/// value of `MPI_IN_PLACE` in Open MPI.
fn address<T>(slice: &[T]) -> *const c_void {
    if slice.is_empty() { std::ptr::null() } else { slice.as_ptr().cast() }
}

/// [`address`] of a receive buffer.
fn address_mut<T>(slice: &mut [T]) -> *mut c_void {
    if slice.is_empty() { std::ptr::null_mut() } else { slice.as_mut_ptr().cast() }
}

impl Mpi {
    /// Initializes MPI and joins `MPI_COMM_WORLD`. Every rank must call it, on the thread that will drop the result.
    ///
    /// # Errors
    /// If MPI is already initialized, does not support calls from several threads, or fails.
    pub fn connect(ledger: Arc<Ledger>) -> Result<Self, CollectiveError> {
        let (universe, granted) =
            mpi::initialize_with_threading(Threading::Multiple).ok_or(CollectiveError::AlreadyConnected)?;
        if granted < Threading::Serialized {
            return Err(CollectiveError::ThreadLevel { granted: format!("{granted:?}") });
        }
        let mut mpi =
            Self { rank: 0, world_size: 1, local_rank: 0, calls: Mutex::new(()), ledger, _universe: universe };
        let (mut rank, mut size) = (0, 0);
        // SAFETY: MPI is initialized; the pointers are to live integers.
        unsafe {
            mpi.check("MPI_Comm_set_errhandler", ffi::MPI_Comm_set_errhandler(world(), ffi::RSMPI_ERRORS_RETURN))?;
            mpi.check("MPI_Comm_rank", ffi::MPI_Comm_rank(world(), &mut rank))?;
            mpi.check("MPI_Comm_size", ffi::MPI_Comm_size(world(), &mut size))?;
        }
        (mpi.rank, mpi.world_size) = (rank as usize, size as usize);
        mpi.local_rank = mpi.find_local_rank()?;
        Ok(mpi)
    }

    /// Returns the name and version of the MPI library.
    #[must_use]
    pub fn library() -> String {
        mpi::environment::library_version().map_or_else(
            |_| "unknown MPI library".to_owned(),
            |text| text.trim_end_matches(['\0', '\n']).lines().next().unwrap_or_default().to_owned(),
        )
    }

    /// Returns the index of this rank among the ranks of its host, which share memory. The environment variables of
    /// launchers differ in their meaning if hosts have different numbers of ranks.
    fn find_local_rank(&self) -> Result<usize, CollectiveError> {
        let mut local = 0;
        // SAFETY: MPI is initialized; `host` is a communicator after the split succeeds, and is freed once.
        unsafe {
            let mut host = ffi::RSMPI_COMM_NULL;
            let (shared, key) = (ffi::RSMPI_COMM_TYPE_SHARED, count(self.rank));
            let code = ffi::MPI_Comm_split_type(world(), shared, key, ffi::RSMPI_INFO_NULL, &mut host);
            self.check("MPI_Comm_split_type", code)?;
            self.check("MPI_Comm_rank", ffi::MPI_Comm_rank(host, &mut local))?;
            self.check("MPI_Comm_free", ffi::MPI_Comm_free(&mut host))?;
        }
        Ok(local as usize)
    }

    fn check(&self, operation: &'static str, code: c_int) -> Result<(), CollectiveError> {
        if code == ffi::MPI_SUCCESS as c_int {
            return Ok(());
        }
        let mut text = vec![0_u8; ffi::MPI_MAX_ERROR_STRING as usize + 1];
        let mut length = 0;
        // SAFETY: `text` has space for MPI_MAX_ERROR_STRING characters and the terminator.
        unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut length) };
        text.truncate(usize::try_from(length).unwrap_or(0));
        Err(CollectiveError::Transport {
            operation,
            rank: self.rank,
            world_size: self.world_size,
            message: String::from_utf8_lossy(&text).into_owned(),
        })
    }

    fn check_root(&self, operation: &'static str, root: usize) -> Result<(), CollectiveError> {
        if root < self.world_size {
            Ok(())
        } else {
            Err(CollectiveError::NoSuchRank { operation, root, world_size: self.world_size })
        }
    }

    /// Sums over the ranks, and shows the exchange in the ledger.
    fn all_reduce_sum<T: Summand>(&self, values: &mut [T]) -> Result<(), CollectiveError> {
        if self.world_size == 1 {
            return Ok(());
        }
        let _exchange = Exchange::enter(&self.ledger);
        self.sum(values)
    }

    /// Sums over the ranks without changing the ledger.
    fn sum<T: Summand>(&self, values: &mut [T]) -> Result<(), CollectiveError> {
        let _guard = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if size_of_val(values) * self.world_size <= SMALL_SUM_BYTES {
            return self.sum_small(values);
        }
        let mut staging = Vec::new();
        values.chunks_mut(CHUNK_BYTES / size_of::<T>()).try_for_each(|chunk| self.sum_large(chunk, &mut staging))
    }

    /// Sums a short message: every rank receives the values of all ranks and adds them up.
    fn sum_small<T: Summand>(&self, values: &mut [T]) -> Result<(), CollectiveError> {
        let n = values.len();
        let mut staging = vec![T::default(); n * self.world_size];
        self.all_gather_equal(values, &mut staging, T::datatype())?;
        sum_rows(&mut staging, n);
        values.copy_from_slice(&staging[..n]);
        Ok(())
    }

    /// Sums a long message: each rank adds up one part of the values and sends the sums to all.
    fn sum_large<T: Summand>(&self, values: &mut [T], staging: &mut Vec<T>) -> Result<(), CollectiveError> {
        let starts: Vec<usize> = (0..=self.world_size).map(|r| values.len() * r / self.world_size).collect();
        let counts: Vec<c_int> = starts.windows(2).map(|pair| count(pair[1] - pair[0])).collect();
        let displacements: Vec<c_int> = starts[..self.world_size].iter().map(|&start| count(start)).collect();
        let own = starts[self.rank + 1] - starts[self.rank];
        let row_counts = vec![count(own); self.world_size];
        let row_displacements: Vec<c_int> = (0..self.world_size).map(|r| count(r * own)).collect();
        staging.resize(self.world_size * own, T::default());
        // SAFETY: the counts and displacements are within `values` and `staging`, which do not overlap. They agree
        // between ranks, because `values` has the same length on all of them.
        unsafe {
            let code = ffi::MPI_Alltoallv(
                address(values),
                counts.as_ptr(),
                displacements.as_ptr(),
                T::datatype(),
                address_mut(staging),
                row_counts.as_ptr(),
                row_displacements.as_ptr(),
                T::datatype(),
                world(),
            );
            self.check("MPI_Alltoallv", code)?;
        }
        sum_rows(staging, own);
        // SAFETY: as above.
        unsafe {
            let code = ffi::MPI_Allgatherv(
                address(staging),
                count(own),
                T::datatype(),
                address_mut(values),
                counts.as_ptr(),
                displacements.as_ptr(),
                T::datatype(),
                world(),
            );
            self.check("MPI_Allgatherv", code)
        }
    }

    /// Gathers slices of the same length on every rank. `received` has `world_size` times the length of `sent`.
    fn all_gather_equal<T>(
        &self,
        sent: &[T],
        received: &mut [T],
        datatype: ffi::MPI_Datatype,
    ) -> Result<(), CollectiveError> {
        let n = count(sent.len());
        let (from, to) = (address(sent), address_mut(received));
        // SAFETY: the lengths are those of the slices, which do not overlap.
        let code = unsafe { ffi::MPI_Allgather(from, n, datatype, to, n, datatype, world()) };
        self.check("MPI_Allgather", code)
    }

    /// Returns the length that each rank passes.
    fn all_lengths(&self, length: usize) -> Result<Vec<usize>, CollectiveError> {
        let mut lengths = vec![0_u64; self.world_size];
        // SAFETY: a constant that the C shim initializes statically.
        let datatype = unsafe { ffi::RSMPI_UINT64_T };
        self.all_gather_equal(&[length as u64], &mut lengths, datatype)?;
        Ok(lengths.into_iter().map(|length| length as usize).collect())
    }

    /// Gathers bytes of any length in rounds of at most [`CHUNK_BYTES`], on `root` or, without one, on all ranks.
    fn gather_in_rounds(&self, bytes: &[u8], root: Option<usize>) -> Result<Option<Vec<Vec<u8>>>, CollectiveError> {
        let _exchange = Exchange::enter(&self.ledger);
        let _guard = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let lengths = self.all_lengths(bytes.len())?;
        let receives = root.is_none_or(|root| root == self.rank);
        let mut gathered: Vec<Vec<u8>> =
            lengths.iter().map(|&length| Vec::with_capacity(if receives { length } else { 0 })).collect();
        let step = (CHUNK_BYTES / self.world_size).max(1);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut staging = Vec::new();
        for start in (0..longest).step_by(step) {
            let part = |length: usize| start.min(length)..(start + step).min(length);
            let counts: Vec<c_int> = lengths.iter().map(|&length| count(part(length).len())).collect();
            let displacements: Vec<c_int> =
                counts.iter().scan(0, |end, n| Some(std::mem::replace(end, *end + n))).collect();
            let total: usize = lengths.iter().map(|&length| part(length).len()).sum();
            staging.resize(if receives { total } else { 0 }, 0_u8);
            let own = &bytes[part(bytes.len())];
            let (from, n) = (address(own), count(own.len()));
            let (to, counts_at, displaced_at) = (address_mut(&mut staging), counts.as_ptr(), displacements.as_ptr());
            let byte = byte_type();
            // SAFETY: the counts are the same on every rank and add up to the length of `staging` where it is used.
            let (operation, code) = unsafe {
                match root {
                    None => (
                        "MPI_Allgatherv",
                        ffi::MPI_Allgatherv(from, n, byte, to, counts_at, displaced_at, byte, world()),
                    ),
                    Some(root) => (
                        "MPI_Gatherv",
                        ffi::MPI_Gatherv(from, n, byte, to, counts_at, displaced_at, byte, count(root), world()),
                    ),
                }
            };
            self.check(operation, code)?;
            if receives {
                let mut rest = staging.as_slice();
                for (bytes, &length) in gathered.iter_mut().zip(&lengths) {
                    let (head, tail) = rest.split_at(part(length).len());
                    bytes.extend_from_slice(head);
                    rest = tail;
                }
            }
        }
        Ok(receives.then_some(gathered))
    }
}

/// Adds the rows of `staging`, each of `row` values, to the first row, in order.
fn sum_rows<T: Summand>(staging: &mut [T], row: usize) {
    let (sums, others) = staging.split_at_mut(row);
    for other in others.chunks_exact(row.max(1)) {
        for (sum, value) in sums.iter_mut().zip(other) {
            *sum += *value;
        }
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn local_rank(&self) -> usize {
        self.local_rank
    }

    fn all_reduce_sum_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        self.all_reduce_sum(values)
    }

    fn background_all_reduce_sum_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        if self.world_size == 1 { Ok(()) } else { self.sum(values) }
    }

    fn all_reduce_sum_f64(&self, values: &mut [f64]) -> Result<(), CollectiveError> {
        self.all_reduce_sum(values)
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        self.check_root("broadcast", root)?;
        let _exchange = Exchange::enter(&self.ledger);
        let _guard = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let mut length = (bytes.len() as u64).to_le_bytes();
        let send = |part: &mut [u8]| {
            let (at, n) = (address_mut(part), count(part.len()));
            // SAFETY: the count is the slice's length, the same on every rank.
            self.check("MPI_Bcast", unsafe { ffi::MPI_Bcast(at, n, byte_type(), count(root), world()) })
        };
        send(&mut length)?;
        bytes.resize(u64::from_le_bytes(length) as usize, 0);
        bytes.chunks_mut(CHUNK_BYTES).try_for_each(send)
    }

    fn gather(&self, root: usize, bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>, CollectiveError> {
        self.check_root("gather", root)?;
        self.gather_in_rounds(bytes, Some(root))
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        Ok(self.gather_in_rounds(bytes, None)?.expect("every rank receives when there is no root"))
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        let _exchange = Exchange::enter(&self.ledger);
        let _guard = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: MPI is initialized and not yet finalized.
        self.check("MPI_Barrier", unsafe { ffi::MPI_Barrier(world()) })
    }

    fn background_barrier(&self) -> Result<(), CollectiveError> {
        let _guard = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut done, mut pause) = (0, FIRST_PAUSE);
        // SAFETY: MPI is initialized and not yet finalized. The request lives until it completes, and the status is
        // ignored.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            self.check("MPI_Ibarrier", ffi::MPI_Ibarrier(world(), &mut request))?;
            loop {
                self.check("MPI_Test", ffi::MPI_Test(&mut request, &mut done, ffi::RSMPI_STATUS_IGNORE))?;
                if done != 0 {
                    return Ok(());
                }
                std::thread::sleep(pause);
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
        }
    }

    fn sendrecv(&self, peer: usize, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        self.check_root("sendrecv", peer)?;
        let _guard = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.chunks_mut(CHUNK_BYTES).try_for_each(|chunk| {
            let (at, n, peer) = (address_mut(chunk), count(chunk.len()), count(peer));
            // SAFETY: the count is the slice's length, which is the same on both ranks. The status is ignored.
            let code = unsafe {
                ffi::MPI_Sendrecv_replace(at, n, byte_type(), peer, 0, peer, 0, world(), ffi::RSMPI_STATUS_IGNORE)
            };
            self.check("MPI_Sendrecv_replace", code)
        })
    }

    fn abort(&self, code: ExitCode) -> ! {
        // The process ends without unwinding, so the output has to be flushed here.
        let _ = std::io::stdout().flush();
        // SAFETY: MPI is initialized and not yet finalized. The mutex is not locked, because another thread may hold it
        // in a collective that never returns.
        unsafe { ffi::MPI_Abort(world(), c_int::from(code as u8)) };
        // MPI_Abort may return if the launcher is gone.
        std::process::exit(i32::from(code as u8))
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        self.ledger.enter(Phase::End, 0);
        // Finalizing would block, because the other ranks wait for this one in a collective.
        if std::thread::panicking() {
            self.abort(ExitCode::Bug);
        }
    }
}
