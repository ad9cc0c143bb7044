//! Ranks under an MPI launcher, through the `mpi` crate.
//!
//! The crate starts and ends MPI; the collectives go through its C interface, because its safe one throws MPI's
//! return codes away.

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
use crate::phase_tracker::Exchange;

/// The most bytes that one MPI call moves. MPI counts in `i32`, so that long messages must be cut in any case; at
/// this size the staging memory stays small and nothing is slower.
const CHUNK_BYTES: usize = 4 << 20;

/// Between the first two looks at whether the other ranks have come, and at most. MPI's own waiting takes a whole core,
/// which a rank in the middle of backward needs itself, and every look takes the core from it for a moment: so each pause
/// is twice the one before it.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// Up to this many bytes over all ranks, a sum is one all-gather, for its latency; above it is a reduce-scatter
/// and an all-gather, for their bandwidth.
const SMALL_SUM_BYTES: usize = 64 << 10;

/// The ranks that an MPI launcher started.
///
/// **Threads.** MPI is asked for `MPI_THREAD_MULTIPLE` and must grant at least `MPI_THREAD_SERIALIZED`: a mutex
/// keeps the collectives apart, so that any thread may call them (while backward runs on another), but the order
/// of calls must be the same on every rank, which the caller sees to. `MULTIPLE` is what allows
/// [`Collective::abort`] while another thread is inside a collective.
///
/// **Sums** are taken in the order of ranks, ((r0 + r1) + r2) + ..., for each value by one rank or by all in the
/// same way. So all ranks get the same bits, run after run, and neither the length of the message nor the place
/// in it matters: another bucket size changes no bit. `MPI_Allreduce` promises none of this.
///
/// **The ledger** says of each collective that the rank is in it, so that a rank that does not come can be told from
/// those that wait for it.
///
/// **The end.** Dropping it finalizes MPI, in which each rank waits for all others: a rank that fails alone
/// must [`abort`](Collective::abort) instead. Dropped by a panic, it aborts by itself.
pub struct Mpi {
    rank: usize,
    world_size: usize,
    local_rank: usize,
    calls: Mutex<()>,
    ledger: Arc<Ledger>,
    /// Finalizes MPI when it is dropped.
    _universe: Universe,
}

/// A number type that MPI can carry and ranks can sum.
trait Summand: Copy + Default + std::ops::AddAssign {
    /// MPI's name of the type.
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

/// A count for MPI. Every count is bounded by the chunk sizes above, or is a number of ranks.
fn count(n: usize) -> c_int {
    c_int::try_from(n).expect("chunks are far below 2^31")
}

/// Where a slice lies, for MPI. Rust gives an empty slice of bytes the address 1, which Open MPI takes for
/// `MPI_IN_PLACE`.
fn address<T>(slice: &[T]) -> *const c_void {
    if slice.is_empty() { std::ptr::null() } else { slice.as_ptr().cast() }
}

/// [`address`] for receiving.
fn address_mut<T>(slice: &mut [T]) -> *mut c_void {
    if slice.is_empty() { std::ptr::null_mut() } else { slice.as_mut_ptr().cast() }
}

impl Mpi {
    /// Starts MPI and joins `MPI_COMM_WORLD`. Every rank calls it, on the thread that will drop it.
    ///
    /// # Errors
    /// When MPI runs already, is too strict about threads, or fails.
    pub fn connect(ledger: Arc<Ledger>) -> Result<Self, CollectiveError> {
        let (universe, granted) =
            mpi::initialize_with_threading(Threading::Multiple).ok_or(CollectiveError::AlreadyConnected)?;
        if granted < Threading::Serialized {
            return Err(CollectiveError::ThreadLevel { granted: format!("{granted:?}") });
        }
        let mut mpi = Self { rank: 0, world_size: 1, local_rank: 0, calls: Mutex::new(()), ledger, _universe: universe };
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

    /// The MPI library's own description.
    #[must_use]
    pub fn library() -> String {
        mpi::environment::library_version().map_or_else(
            |_| "unknown MPI library".to_owned(),
            |text| text.trim_end_matches(['\0', '\n']).lines().next().unwrap_or_default().to_owned(),
        )
    }

    /// The place among the ranks that share memory with this one. Unlike the launchers' variables it means the
    /// same everywhere, also where ranks are not dealt evenly to hosts.
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
        // SAFETY: `text` has room for MPI_MAX_ERROR_STRING characters and the end mark.
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

    /// Sums over the ranks, which the ledger shows.
    fn all_reduce_sum<T: Summand>(&self, values: &mut [T]) -> Result<(), CollectiveError> {
        if self.world_size == 1 {
            return Ok(());
        }
        let _exchange = Exchange::enter(&self.ledger);
        self.sum(values)
    }

    fn sum<T: Summand>(&self, values: &mut [T]) -> Result<(), CollectiveError> {
        let _turn = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if size_of_val(values) * self.world_size <= SMALL_SUM_BYTES {
            return self.sum_small(values);
        }
        let mut staging = Vec::new();
        values.chunks_mut(CHUNK_BYTES / size_of::<T>()).try_for_each(|chunk| self.sum_large(chunk, &mut staging))
    }

    /// Everybody gets everything and adds it up.
    fn sum_small<T: Summand>(&self, values: &mut [T]) -> Result<(), CollectiveError> {
        let n = values.len();
        let mut staging = vec![T::default(); n * self.world_size];
        self.all_gather_equal(values, &mut staging, T::datatype())?;
        sum_rows(&mut staging, n);
        values.copy_from_slice(&staging[..n]);
        Ok(())
    }

    /// Each rank adds up one part of the values and sends the sums to all.
    fn sum_large<T: Summand>(&self, values: &mut [T], staging: &mut Vec<T>) -> Result<(), CollectiveError> {
        let starts: Vec<usize> = (0..=self.world_size).map(|r| values.len() * r / self.world_size).collect();
        let counts: Vec<c_int> = starts.windows(2).map(|pair| count(pair[1] - pair[0])).collect();
        let displacements: Vec<c_int> = starts[..self.world_size].iter().map(|&start| count(start)).collect();
        let mine = starts[self.rank + 1] - starts[self.rank];
        let row_counts = vec![count(mine); self.world_size];
        let row_displacements: Vec<c_int> = (0..self.world_size).map(|r| count(r * mine)).collect();
        staging.resize(self.world_size * mine, T::default());
        // SAFETY: the counts and displacements lie within `values` and `staging`, which do not overlap; they agree
        // between ranks because the values have the same length on each.
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
        sum_rows(staging, mine);
        // SAFETY: as above.
        unsafe {
            let code = ffi::MPI_Allgatherv(
                address(staging),
                count(mine),
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

    /// `received` has `world_size` times the length of `sent`, which is the same on every rank.
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

    /// The lengths of what each rank brings.
    fn all_lengths(&self, length: usize) -> Result<Vec<usize>, CollectiveError> {
        let mut lengths = vec![0_u64; self.world_size];
        // SAFETY: a constant that the C shim initializes statically.
        let datatype = unsafe { ffi::RSMPI_UINT64_T };
        self.all_gather_equal(&[length as u64], &mut lengths, datatype)?;
        Ok(lengths.into_iter().map(|length| length as usize).collect())
    }

    /// Gathers bytes of any length in rounds of bounded size, to one rank or to all.
    fn gather_in_rounds(&self, bytes: &[u8], root: Option<usize>) -> Result<Option<Vec<Vec<u8>>>, CollectiveError> {
        let _exchange = Exchange::enter(&self.ledger);
        let _turn = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
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
            let mine = &bytes[part(bytes.len())];
            let (from, n) = (address(mine), count(mine.len()));
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

/// Adds the rows of `staging`, each of `row` values, to the first, in order.
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
        let _turn = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
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
        let _turn = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: MPI is initialized and not yet finalized.
        self.check("MPI_Barrier", unsafe { ffi::MPI_Barrier(world()) })
    }

    fn background_barrier(&self) -> Result<(), CollectiveError> {
        let _turn = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut done, mut pause) = (0, FIRST_PAUSE);
        // SAFETY: MPI is initialized and not yet finalized; the request is waited for before it is gone, and no status
        // is asked for.
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
        let _turn = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.chunks_mut(CHUNK_BYTES).try_for_each(|chunk| {
            let (at, n, peer) = (address_mut(chunk), count(chunk.len()), count(peer));
            // SAFETY: the count is the slice's length, the same on both ranks; no status is asked for.
            let code = unsafe {
                ffi::MPI_Sendrecv_replace(at, n, byte_type(), peer, 0, peer, 0, world(), ffi::RSMPI_STATUS_IGNORE)
            };
            self.check("MPI_Sendrecv_replace", code)
        })
    }

    fn abort(&self, code: ExitCode) -> ! {
        // The process ends without unwinding: what was printed so far must be on its way.
        let _ = std::io::stdout().flush();
        // SAFETY: MPI is initialized and not yet finalized. The mutex is not taken: another thread may hold it in
        // a collective that will never return.
        unsafe { ffi::MPI_Abort(world(), c_int::from(code as u8)) };
        // MPI_Abort may return where the launcher is gone.
        std::process::exit(i32::from(code as u8))
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        self.ledger.enter(Phase::End, 0);
        // Finalizing waits for all ranks, and they wait for this one.
        if std::thread::panicking() {
            self.abort(ExitCode::Bug);
        }
    }
}
