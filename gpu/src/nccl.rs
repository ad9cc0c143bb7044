//! NCCL, loaded at run time: collectives between GPUs on the caller's memory and streams.
//!
//! A communicator starts without blocking and is polled, so that a peer that never comes is an error with a name and
//! not a process that hangs. What is enqueued runs on the GPU; [`Communicator::poll`] says whether a peer was lost.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Kind;
use crate::driver::StreamHandle;
use crate::launch::DevicePointer;
use crate::library::{self, Library, LibraryError, Loaded, SearchPath};

/// Why NCCL did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NcclError {
    /// NCCL is not at hand.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A call failed, or one that was under way did.
    #[error(
        "{call} failed on rank {rank} of {world}: {word} ({code}){}; NCCL_DEBUG=INFO makes NCCL say more",
        detail(.last)
    )]
    Call {
        /// The function; of an asynchronous failure, what found it.
        call: &'static str,
        /// This rank.
        rank: usize,
        /// How many ranks there are.
        world: usize,
        /// NCCL's number of the failure.
        code: i32,
        /// NCCL's word for it.
        word: String,
        /// What NCCL itself wrote of its last error; may be empty.
        last: String,
    },
    /// A start or an end took too long.
    #[error(
        "{call} on rank {rank} of {world} has not ended after {seconds} s: a peer is missing or cannot be reached; \
         NCCL_DEBUG=INFO shows who waits for whom, NCCL_SOCKET_IFNAME names the network to use"
    )]
    Deadline {
        /// The function.
        call: &'static str,
        /// This rank.
        rank: usize,
        /// How many ranks there are.
        world: usize,
        /// How long was waited.
        seconds: u64,
    },
    /// The communicator was aborted.
    #[error("{call} on rank {rank}: the communicator was aborted before")]
    Aborted {
        /// The function.
        call: &'static str,
        /// This rank.
        rank: usize,
    },
    /// A rank that is not below the number of ranks, or numbers too large for NCCL.
    #[error("rank {rank} of {world} cannot be: ranks count from 0 and are fewer than 2^31")]
    Rank {
        /// As asked for.
        rank: usize,
        /// As asked for.
        world: usize,
    },
}

fn detail(last: &str) -> String {
    if last.trim().is_empty() { String::new() } else { format!("; it said: {}", last.trim()) }
}

const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;
const SUM: c_int = 0;
const ID_BYTES: usize = 128;
/// Between two looks at a start or an end that is under way.
const PAUSE: Duration = Duration::from_millis(5);

/// What rank 0 makes and all ranks must have to find each other.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct UniqueId([u8; ID_BYTES]);

impl UniqueId {
    /// Bytes of it, to send them.
    pub const BYTES: usize = ID_BYTES;

    /// As bytes, to send them to the other ranks.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }

    /// From rank 0's bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It holds an address and a secret of the job.
        f.write_str("UniqueId(..)")
    }
}

type Comm = *mut c_void;

/// `ncclConfig_t` as of NCCL 2.14, the first that has it. Later ones read no further than `size` says.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

impl Config {
    fn non_blocking() -> Self {
        Self { size: size_of::<Self>(), magic: 0xcafe_beef, version: 21_400, blocking: 0 }
    }
}

type Send = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Comm, *mut c_void) -> c_int;
type Reduce = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> c_int;
type OfComm = unsafe extern "C" fn(Comm) -> c_int;

struct Functions {
    version: unsafe extern "C" fn(*mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    init_rank: unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int) -> c_int,
    async_error: unsafe extern "C" fn(Comm, *mut c_int) -> c_int,
    all_reduce: Reduce,
    reduce_scatter: Reduce,
    all_gather: Send,
    broadcast: Reduce,
    group_start: unsafe extern "C" fn() -> c_int,
    group_end: unsafe extern "C" fn() -> c_int,
    destroy: OfComm,
    abort: OfComm,
    // Since 2.14; without them a start blocks.
    init_rank_config: Option<unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> c_int>,
    finalize: Option<OfComm>,
    // Since 2.13.
    last_error: Option<unsafe extern "C" fn(Comm) -> *const c_char>,
}

/// NCCL, loaded.
pub struct Nccl {
    loaded: Loaded,
    functions: Functions,
}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NCCL {} from {}", self.version(), self.loaded.path())
    }
}

impl Nccl {
    /// What this process has loaded already (libtorch's), else what is found.
    ///
    /// # Errors
    /// [`LibraryError`] where there is none.
    pub fn load(search: &SearchPath) -> Result<Arc<Self>, LibraryError> {
        Self::from_library(library::load(Library::Nccl, search)?)
    }

    /// From a library that is loaded already.
    ///
    /// # Errors
    /// [`LibraryError::Symbol`] where it lacks a function that every NCCL 2 has.
    pub fn from_library(loaded: Loaded) -> Result<Arc<Self>, LibraryError> {
        // SAFETY: the types are those of nccl.h. ncclBroadcast's `root` stands where others have their operation.
        let functions = unsafe {
            Functions {
                version: loaded.function("ncclGetVersion")?,
                error_string: loaded.function("ncclGetErrorString")?,
                unique_id: loaded.function("ncclGetUniqueId")?,
                init_rank: loaded.function("ncclCommInitRank")?,
                async_error: loaded.function("ncclCommGetAsyncError")?,
                all_reduce: loaded.function("ncclAllReduce")?,
                reduce_scatter: loaded.function("ncclReduceScatter")?,
                all_gather: loaded.function("ncclAllGather")?,
                broadcast: loaded.function("ncclBroadcast")?,
                group_start: loaded.function("ncclGroupStart")?,
                group_end: loaded.function("ncclGroupEnd")?,
                destroy: loaded.function("ncclCommDestroy")?,
                abort: loaded.function("ncclCommAbort")?,
                init_rank_config: loaded.function("ncclCommInitRankConfig").ok(),
                finalize: loaded.function("ncclCommFinalize").ok(),
                last_error: loaded.function("ncclGetLastError").ok(),
            }
        };
        Ok(Arc::new(Self { loaded, functions }))
    }

    /// Where it was found.
    #[must_use]
    pub fn path(&self) -> &str {
        self.loaded.path()
    }

    /// Its release, as `2.27.5`.
    #[must_use]
    pub fn version(&self) -> String {
        let mut version: c_int = 0;
        // SAFETY: the place is good to write; where the call fails it stays 0.
        unsafe { (self.functions.version)(&mut version) };
        release(version)
    }

    /// A name for a new communicator; one rank makes it and sends it to all.
    ///
    /// # Errors
    /// Where NCCL finds no network to listen on.
    pub fn unique_id(&self) -> Result<UniqueId, NcclError> {
        let mut id = UniqueId([0; ID_BYTES]);
        // SAFETY: the place is good to write.
        let code = unsafe { (self.functions.unique_id)(&mut id) };
        self.check("ncclGetUniqueId", (0, 1), std::ptr::null_mut(), code)?;
        Ok(id)
    }

    fn check(
        &self,
        call: &'static str,
        (rank, world): (usize, usize),
        comm: Comm,
        code: c_int,
    ) -> Result<(), NcclError> {
        if code == SUCCESS || code == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: NCCL returns constant strings, or ones that live as long as the process.
        let (word, last) = unsafe {
            let last = self.functions.last_error.map_or(std::ptr::null(), |last| last(comm));
            (library::text((self.functions.error_string)(code), "an unknown error"), library::text(last, ""))
        };
        Err(NcclError::Call { call, rank, world, code, word, last })
    }
}

/// NCCL's numbers: 2708 is 2.7.8, since 2.9 22705 is 2.27.5.
fn release(version: c_int) -> String {
    let (major, rest) =
        if version < 10_000 { (version / 1000, version % 1000) } else { (version / 10_000, version % 10_000) };
    format!("{major}.{}.{}", rest / 100, rest % 100)
}

fn data_type(kind: Kind) -> c_int {
    match kind {
        Kind::Half => 6,
        Kind::Float => 7,
        Kind::BFloat16 => 9,
    }
}

/// This rank's part of a group of ranks that sum together. Every rank enters the same collectives in the same order.
#[derive(Debug)]
pub struct Communicator {
    nccl: Arc<Nccl>,
    comm: Comm,
    rank: usize,
    world: usize,
    /// How long an orderly end may take.
    patience: Duration,
}

// SAFETY: a communicator may be used from any thread, one at a time; `&mut self` sees to that.
unsafe impl std::marker::Send for Communicator {}

impl Communicator {
    /// Joins the other ranks. The CUDA device of this rank must be current on this thread (libtorch's is). Waits at most
    /// `patience`, here and for an orderly end when dropped.
    ///
    /// # Errors
    /// [`NcclError::Deadline`] where a rank does not come; [`NcclError::Call`] for what NCCL says.
    pub fn init(
        nccl: &Arc<Nccl>,
        id: &UniqueId,
        rank: usize,
        world: usize,
        patience: Duration,
    ) -> Result<Self, NcclError> {
        let (Ok(number), Ok(count)) = (c_int::try_from(rank), c_int::try_from(world)) else {
            return Err(NcclError::Rank { rank, world });
        };
        if rank >= world {
            return Err(NcclError::Rank { rank, world });
        }
        let mut this = Self { nccl: Arc::clone(nccl), comm: std::ptr::null_mut(), rank, world, patience };
        let call = match nccl.functions.init_rank_config {
            Some(init) => {
                let mut config = Config::non_blocking();
                // SAFETY: the places are good; NCCL reads of the configuration what its size says.
                let code = unsafe { init(&mut this.comm, count, *id, number, &mut config) };
                this.check("ncclCommInitRankConfig", code)?;
                "ncclCommInitRankConfig"
            }
            None => {
                // SAFETY: the place is good to write.
                let code = unsafe { (nccl.functions.init_rank)(&mut this.comm, count, *id, number) };
                this.check("ncclCommInitRank", code)?;
                "ncclCommInitRank"
            }
        };
        if let Err(error) = this.wait(call) {
            this.abort();
            return Err(error);
        }
        Ok(this)
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    #[must_use]
    pub fn world(&self) -> usize {
        self.world
    }

    /// Enqueues the sum over all ranks of `count` values at `address`, in place.
    ///
    /// # Errors
    /// What NCCL says; failures of peers come with [`Communicator::poll`].
    ///
    /// # Safety
    /// The address is good for `count` values of device memory, and the stream lives, until the sum is there.
    pub unsafe fn all_reduce_in_place(
        &mut self,
        address: DevicePointer,
        count: usize,
        kind: Kind,
        stream: StreamHandle,
    ) -> Result<(), NcclError> {
        const CALL: &str = "ncclAllReduce";
        self.alive(CALL)?;
        let memory = address as *mut c_void;
        // SAFETY: the communicator is alive; memory and stream are good by the caller's word.
        let code = unsafe {
            (self.nccl.functions.all_reduce)(memory, memory, count, data_type(kind), SUM, self.comm, stream.0)
        };
        self.enqueued(CALL, code)
    }

    /// Enqueues a sum of which each rank gets its part: rank r the values from `r * count_of_part` on, of
    /// `world * count_of_part` at `from`, to `to`.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce_in_place`].
    ///
    /// # Safety
    /// As [`Communicator::all_reduce_in_place`]. `to` may be this rank's part of `from`.
    pub unsafe fn reduce_scatter(
        &mut self,
        from: DevicePointer,
        to: DevicePointer,
        count_of_part: usize,
        kind: Kind,
        stream: StreamHandle,
    ) -> Result<(), NcclError> {
        const CALL: &str = "ncclReduceScatter";
        self.alive(CALL)?;
        let (from, to) = (from as *const c_void, to as *mut c_void);
        // SAFETY: as above.
        let code = unsafe {
            (self.nccl.functions.reduce_scatter)(from, to, count_of_part, data_type(kind), SUM, self.comm, stream.0)
        };
        self.enqueued(CALL, code)
    }

    /// Enqueues the parts of all ranks, `count_of_part` values at `from` each, in the order of ranks to `to`.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce_in_place`].
    ///
    /// # Safety
    /// As [`Communicator::all_reduce_in_place`]. `from` may be this rank's part of `to`.
    pub unsafe fn all_gather(
        &mut self,
        from: DevicePointer,
        to: DevicePointer,
        count_of_part: usize,
        kind: Kind,
        stream: StreamHandle,
    ) -> Result<(), NcclError> {
        const CALL: &str = "ncclAllGather";
        self.alive(CALL)?;
        let (from, to) = (from as *const c_void, to as *mut c_void);
        // SAFETY: as above.
        let code =
            unsafe { (self.nccl.functions.all_gather)(from, to, count_of_part, data_type(kind), self.comm, stream.0) };
        self.enqueued(CALL, code)
    }

    /// Enqueues a copy of `count` values from rank `root` to all, in place.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce_in_place`]; [`NcclError::Rank`] for a root that does not exist.
    ///
    /// # Safety
    /// As [`Communicator::all_reduce_in_place`].
    pub unsafe fn broadcast_in_place(
        &mut self,
        address: DevicePointer,
        count: usize,
        kind: Kind,
        root: usize,
        stream: StreamHandle,
    ) -> Result<(), NcclError> {
        const CALL: &str = "ncclBroadcast";
        self.alive(CALL)?;
        if root >= self.world {
            return Err(NcclError::Rank { rank: root, world: self.world });
        }
        let memory = address as *mut c_void;
        // SAFETY: as above.
        let code = unsafe {
            (self.nccl.functions.broadcast)(memory, memory, count, data_type(kind), root as c_int, self.comm, stream.0)
        };
        self.enqueued(CALL, code)
    }

    /// Enqueues what `body` enqueues as one operation: fewer launches for many small tensors.
    ///
    /// # Errors
    /// What `body` says, else what NCCL says.
    pub fn group(&mut self, body: impl FnOnce(&mut Self) -> Result<(), NcclError>) -> Result<(), NcclError> {
        self.alive("ncclGroupStart")?;
        // SAFETY: start and end enclose what one thread enqueues.
        let code = unsafe { (self.nccl.functions.group_start)() };
        self.check("ncclGroupStart", code)?;
        let done = body(self);
        // SAFETY: as above. A group must end also where its body failed.
        let code = unsafe { (self.nccl.functions.group_end)() };
        done.and_then(|()| self.enqueued("ncclGroupEnd", code))
    }

    /// Whether all is well: an error is one of a collective that was enqueued before, as when a peer is lost. Cheap; call
    /// it while waiting for a stream.
    ///
    /// # Errors
    /// [`NcclError::Call`]. The communicator is of no use any more then: [`Communicator::abort`] lets its kernels end.
    pub fn poll(&self) -> Result<(), NcclError> {
        self.state("ncclCommGetAsyncError").map(|_| ())
    }

    /// Ends everything at once: kernels that wait for peers end too, with wrong sums. For when a peer is lost.
    pub fn abort(&mut self) {
        if !self.comm.is_null() {
            let comm = std::mem::replace(&mut self.comm, std::ptr::null_mut());
            // SAFETY: the communicator is alive and not used again. What the call says is of no use: there is nothing
            // left to try.
            unsafe { (self.nccl.functions.abort)(comm) };
        }
    }

    /// Ends in order: waits until everything that was enqueued has run on all ranks. Every rank must call it.
    ///
    /// # Errors
    /// As [`Communicator::init`]; the communicator is aborted then.
    pub fn finish(mut self) -> Result<(), NcclError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), NcclError> {
        if self.comm.is_null() {
            return Ok(());
        }
        if let Some(finalize) = self.nccl.functions.finalize {
            // SAFETY: the communicator is alive.
            let code = unsafe { finalize(self.comm) };
            let ended = self.check("ncclCommFinalize", code).and_then(|()| self.wait("ncclCommFinalize"));
            if let Err(error) = ended {
                self.abort();
                return Err(error);
            }
        }
        let comm = std::mem::replace(&mut self.comm, std::ptr::null_mut());
        // SAFETY: the communicator is alive and not used again.
        let code = unsafe { (self.nccl.functions.destroy)(comm) };
        self.check("ncclCommDestroy", code)
    }

    /// A communicator that does not block may still be at work on a call; the next one has to wait for that.
    fn enqueued(&self, call: &'static str, code: c_int) -> Result<(), NcclError> {
        self.check(call, code)?;
        if code == IN_PROGRESS { self.wait(call) } else { Ok(()) }
    }

    fn wait(&self, call: &'static str) -> Result<(), NcclError> {
        let (rank, world) = (self.rank, self.world);
        wait_until(Instant::now, std::thread::sleep, self.patience, || self.state(call)).map_err(
            |failed| match failed {
                Failed::Deadline => NcclError::Deadline { call, rank, world, seconds: self.patience.as_secs() },
                Failed::Error(error) => error,
            },
        )
    }

    /// Whether a call that is under way has come to its end.
    fn state(&self, call: &'static str) -> Result<bool, NcclError> {
        self.alive(call)?;
        let mut state: c_int = SUCCESS;
        // SAFETY: the communicator is alive, and the place is good to write.
        let code = unsafe { (self.nccl.functions.async_error)(self.comm, &mut state) };
        self.check("ncclCommGetAsyncError", code)?;
        self.check(call, state)?;
        Ok(state != IN_PROGRESS)
    }

    fn alive(&self, call: &'static str) -> Result<(), NcclError> {
        if self.comm.is_null() { Err(NcclError::Aborted { call, rank: self.rank }) } else { Ok(()) }
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), NcclError> {
        self.nccl.check(call, (self.rank, self.world), self.comm, code)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // Who wants to know calls `finish`; a failed end is an aborted one.
        let _ = self.end();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Failed<E> {
    Deadline,
    Error(E),
}

/// Asks again and again until the answer is yes, an error, or too late.
fn wait_until<E>(
    now: impl Fn() -> Instant,
    pause: impl Fn(Duration),
    patience: Duration,
    mut ask: impl FnMut() -> Result<bool, E>,
) -> Result<(), Failed<E>> {
    let start = now();
    loop {
        if ask().map_err(Failed::Error)? {
            return Ok(());
        }
        if now().duration_since(start) >= patience {
            return Err(Failed::Deadline);
        }
        pause(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn releases_are_read_in_both_of_nccls_ways() {
        assert_eq!(release(2708), "2.7.8");
        assert_eq!(release(22_705), "2.27.5");
        assert_eq!(release(21_403), "2.14.3");
    }

    /// A clock that goes on by what is paused.
    fn with_clock(
        patience: Duration,
        ask: impl FnMut() -> Result<bool, &'static str>,
    ) -> Result<(), Failed<&'static str>> {
        let time = Cell::new(Instant::now());
        wait_until(|| time.get(), |pause| time.set(time.get() + pause), patience, ask)
    }

    #[test]
    fn waiting_ends_with_yes_with_an_error_or_at_the_deadline() {
        let mut asked = 0;
        let third = || {
            asked += 1;
            Ok(asked == 3)
        };
        assert_eq!(with_clock(Duration::from_secs(1), third), Ok(()));
        assert_eq!(asked, 3);
        assert_eq!(with_clock(Duration::from_secs(1), || Err("lost")), Err(Failed::Error("lost")));
        let mut asked = 0;
        let never = || {
            asked += 1;
            Ok(false)
        };
        assert_eq!(with_clock(10 * PAUSE, never), Err(Failed::Deadline));
        assert_eq!(asked, 11);
    }

    #[test]
    fn messages_say_call_rank_nccls_word_and_what_to_do() {
        let error = NcclError::Call {
            call: "ncclAllReduce",
            rank: 3,
            world: 8,
            code: 6,
            word: "remote process exited or there was a network error".into(),
            last: "Connection closed by remote peer\n".into(),
        };
        assert_eq!(
            error.to_string(),
            "ncclAllReduce failed on rank 3 of 8: remote process exited or there was a network error (6); it said: \
             Connection closed by remote peer; NCCL_DEBUG=INFO makes NCCL say more"
        );
        let error = NcclError::Deadline { call: "ncclCommInitRankConfig", rank: 0, world: 2, seconds: 60 };
        assert!(error.to_string().contains("has not ended after 60 s: a peer is missing"), "{error}");
    }

    #[test]
    fn an_id_survives_the_way_to_another_rank_and_is_not_printed() {
        let id = UniqueId::from_bytes([7; ID_BYTES]);
        assert_eq!(UniqueId::from_bytes(*id.as_bytes()), id);
        assert_eq!(format!("{id:?}"), "UniqueId(..)");
    }
}
