//! The communicator of a rank.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::api::{Comm, Config, Functions, IN_PROGRESS, Nccl, SUCCESS, UniqueId};
use super::error::NcclError;
use crate::driver::StreamHandle;
use crate::kind::Kind;
use crate::shape::DevicePointer;

const SUM: c_int = 0;

/// The strategy for polling a call that is in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Poll {
    /// For creating and finalizing a communicator, which wait for all peers.
    Slow,
    /// For enqueued operations: NCCL passes every call to another thread, which finishes it within microseconds, and a
    /// step has many calls.
    Fast,
}

impl Poll {
    const PAUSE: Duration = Duration::from_millis(5);
    const SHORT_PAUSE: Duration = Duration::from_micros(50);
    /// A fast wait does not sleep during this time, because a sleep takes longer than most calls.
    const YIELD_TIME: Duration = Duration::from_millis(2);

    /// Returns the pause before the next poll, after having waited for `waited`. `None` means to yield to other
    /// threads.
    fn pause(self, waited: Duration) -> Option<Duration> {
        match self {
            Self::Slow => Some(Self::PAUSE),
            Self::Fast if waited < Self::YIELD_TIME => None,
            Self::Fast => Some(Self::SHORT_PAUSE),
        }
    }
}

fn pause_for(pause: Option<Duration>) {
    match pause {
        Some(pause) => std::thread::sleep(pause),
        None => std::thread::yield_now(),
    }
}

fn data_type(kind: Kind) -> c_int {
    match kind {
        Kind::Half => 6,
        Kind::Float => 7,
        Kind::BFloat16 => 9,
    }
}

/// The communicator of this rank in a group of ranks. All ranks must call the same collectives in the same order.
#[derive(Debug)]
pub struct Communicator {
    nccl: Arc<Nccl>,
    comm: Comm,
    rank: usize,
    world: usize,
    /// The timeout of finalizing the communicator.
    timeout: Duration,
}

// SAFETY: a communicator may be used from any thread, but only by one at a time, which `&mut self` ensures.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Creates the communicator together with the other ranks. The CUDA device of this rank must be current on this
    /// thread, as libtorch's device is. `timeout` also limits the finalization.
    ///
    /// # Errors
    /// If a rank does not join in time ([`NcclError::Timeout`]), or NCCL reports an error ([`NcclError::Call`]).
    pub fn init(
        nccl: &Arc<Nccl>,
        id: &UniqueId,
        rank: usize,
        world: usize,
        timeout: Duration,
    ) -> Result<Self, NcclError> {
        let (Ok(number), Ok(count)) = (c_int::try_from(rank), c_int::try_from(world)) else {
            return Err(NcclError::Rank { rank, world });
        };
        if rank >= world {
            return Err(NcclError::Rank { rank, world });
        }
        let mut this = Self { nccl: Arc::clone(nccl), comm: std::ptr::null_mut(), rank, world, timeout };
        let call = match nccl.functions.init_rank_config {
            Some(init) => {
                let mut config = Config::non_blocking();
                // SAFETY: the pointers are valid. NCCL reads only `size` bytes of the configuration.
                let code = unsafe { init(&mut this.comm, count, *id, number, &mut config) };
                this.check("ncclCommInitRankConfig", code)?;
                "ncclCommInitRankConfig"
            }
            None => {
                // SAFETY: the pointer is valid.
                let code = unsafe { (nccl.functions.init_rank)(&mut this.comm, count, *id, number) };
                this.check("ncclCommInitRank", code)?;
                "ncclCommInitRank"
            }
        };
        if let Err(error) = this.wait(call, Poll::Slow) {
            this.abort();
            return Err(error);
        }
        Ok(this)
    }

    /// Returns the index of this rank.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Returns the number of ranks.
    #[must_use]
    pub fn world(&self) -> usize {
        self.world
    }

    /// Enqueues an in-place all-reduce (sum) of `count` values at `address`.
    ///
    /// # Errors
    /// If NCCL reports an error. The failure of a peer is reported by [`Communicator::poll`].
    ///
    /// # Safety
    /// Until the operation has completed, the address must be valid for `count` values of device memory, and the stream
    /// must be alive.
    pub unsafe fn all_reduce_in_place(
        &mut self,
        address: DevicePointer,
        count: usize,
        kind: Kind,
        stream: StreamHandle,
    ) -> Result<(), NcclError> {
        let memory = address as *mut c_void;
        // SAFETY: the communicator is alive. The caller guarantees the memory and the stream.
        self.enqueue("ncclAllReduce", |nccl, comm| unsafe {
            (nccl.all_reduce)(memory, memory, count, data_type(kind), SUM, comm, stream.0)
        })
    }

    /// Enqueues a reduce-scatter (sum) of `world * count_per_rank` values at `from`. Rank r gets the `count_per_rank`
    /// values from index `r * count_per_rank` at `to`.
    ///
    /// # Errors
    /// As for [`Communicator::all_reduce_in_place`].
    ///
    /// # Safety
    /// As for [`Communicator::all_reduce_in_place`]. `to` may be this rank's part of `from`.
    pub unsafe fn reduce_scatter(
        &mut self,
        from: DevicePointer,
        to: DevicePointer,
        count_per_rank: usize,
        kind: Kind,
        stream: StreamHandle,
    ) -> Result<(), NcclError> {
        let (from, to) = (from as *const c_void, to as *mut c_void);
        // SAFETY: as above.
        self.enqueue("ncclReduceScatter", |nccl, comm| unsafe {
            (nccl.reduce_scatter)(from, to, count_per_rank, data_type(kind), SUM, comm, stream.0)
        })
    }

    /// Enqueues an all-gather of `count_per_rank` values at `from` of each rank, in the order of the ranks, to `to`.
    ///
    /// # Errors
    /// As for [`Communicator::all_reduce_in_place`].
    ///
    /// # Safety
    /// As for [`Communicator::all_reduce_in_place`]. `from` may be this rank's part of `to`.
    pub unsafe fn all_gather(
        &mut self,
        from: DevicePointer,
        to: DevicePointer,
        count_per_rank: usize,
        kind: Kind,
        stream: StreamHandle,
    ) -> Result<(), NcclError> {
        let (from, to) = (from as *const c_void, to as *mut c_void);
        // SAFETY: as above.
        self.enqueue("ncclAllGather", |nccl, comm| unsafe {
            (nccl.all_gather)(from, to, count_per_rank, data_type(kind), comm, stream.0)
        })
    }

    /// Enqueues an in-place broadcast of `count` values from rank `root`.
    ///
    /// # Errors
    /// As for [`Communicator::all_reduce_in_place`]; also if there is no rank `root` ([`NcclError::Rank`]).
    ///
    /// # Safety
    /// As for [`Communicator::all_reduce_in_place`].
    pub unsafe fn broadcast_in_place(
        &mut self,
        address: DevicePointer,
        count: usize,
        kind: Kind,
        root: usize,
        stream: StreamHandle,
    ) -> Result<(), NcclError> {
        if root >= self.world {
            return Err(NcclError::Rank { rank: root, world: self.world });
        }
        let memory = address as *mut c_void;
        // SAFETY: as above.
        self.enqueue("ncclBroadcast", |nccl, comm| unsafe {
            (nccl.broadcast)(memory, memory, count, data_type(kind), root as c_int, comm, stream.0)
        })
    }

    /// Enqueues the operations of `body` as one group, which needs fewer launches for many small tensors.
    ///
    /// # Errors
    /// If `body` returns an error, or NCCL reports one.
    pub fn group(&mut self, body: impl FnOnce(&mut Self) -> Result<(), NcclError>) -> Result<(), NcclError> {
        self.check_alive("ncclGroupStart")?;
        // SAFETY: start and end enclose the calls of one thread.
        let code = unsafe { (self.nccl.functions.group_start)() };
        self.check("ncclGroupStart", code)?;
        let done = body(self);
        // SAFETY: as above. A group must also be ended if its body fails.
        let code = unsafe { (self.nccl.functions.group_end)() };
        done.and_then(|()| self.enqueued("ncclGroupEnd", code))
    }

    /// Checks the collectives that were enqueued before. This is cheap; call it while waiting for a stream.
    ///
    /// # Errors
    /// If a collective failed, for example because a peer was lost ([`NcclError::Call`]). The communicator is unusable
    /// then; [`Communicator::abort`] ends its kernels.
    pub fn poll(&self) -> Result<(), NcclError> {
        self.state("ncclCommGetAsyncError").map(|_| ())
    }

    /// Aborts the communicator after the loss of a peer. Kernels that wait for peers end with wrong results.
    pub fn abort(&mut self) {
        if !self.comm.is_null() {
            let comm = std::mem::replace(&mut self.comm, std::ptr::null_mut());
            // SAFETY: the communicator is alive and not used again. The result is ignored, because nothing else can be
            // tried.
            unsafe { (self.nccl.functions.abort)(comm) };
        }
    }

    /// Finalizes the communicator: waits until all collectives have completed on all ranks. All ranks must call it.
    ///
    /// # Errors
    /// As for [`Communicator::init`]. The communicator is aborted then.
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
            let ended = self.check("ncclCommFinalize", code).and_then(|()| self.wait("ncclCommFinalize", Poll::Slow));
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

    /// Calls NCCL if the communicator is alive, and waits until the operation is enqueued.
    fn enqueue(&mut self, call: &'static str, make: impl FnOnce(&Functions, Comm) -> c_int) -> Result<(), NcclError> {
        self.check_alive(call)?;
        let code = make(&self.nccl.functions, self.comm);
        self.enqueued(call, code)
    }

    /// Waits until a call is enqueued. A non-blocking communicator may still process it, and accepts no other call
    /// then.
    fn enqueued(&self, call: &'static str, code: c_int) -> Result<(), NcclError> {
        self.check(call, code)?;
        if code == IN_PROGRESS { self.wait(call, Poll::Fast) } else { Ok(()) }
    }

    fn wait(&self, call: &'static str, polling: Poll) -> Result<(), NcclError> {
        let (rank, world) = (self.rank, self.world);
        wait_until(Instant::now, pause_for, polling, self.timeout, || self.state(call)).map_err(|failed| match failed {
            Failed::TimedOut => NcclError::Timeout { call, rank, world, seconds: self.timeout.as_secs() },
            Failed::Error(error) => error,
        })
    }

    /// Returns whether the call in progress has completed.
    fn state(&self, call: &'static str) -> Result<bool, NcclError> {
        self.check_alive(call)?;
        let mut state: c_int = SUCCESS;
        // SAFETY: the communicator is alive, and the pointer is valid.
        let code = unsafe { (self.nccl.functions.async_error)(self.comm, &mut state) };
        self.check("ncclCommGetAsyncError", code)?;
        self.check(call, state)?;
        Ok(state != IN_PROGRESS)
    }

    fn check_alive(&self, call: &'static str) -> Result<(), NcclError> {
        if self.comm.is_null() { Err(NcclError::Aborted { call, rank: self.rank }) } else { Ok(()) }
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), NcclError> {
        self.nccl.check(call, (self.rank, self.world), self.comm, code)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // `finish` reports errors. On an error the communicator is aborted.
        let _ = self.end();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Failed<E> {
    TimedOut,
    Error(E),
}

/// Polls `ask` until it returns true or an error, or `timeout` has passed.
fn wait_until<E>(
    now: impl Fn() -> Instant,
    pause_for: impl Fn(Option<Duration>),
    polling: Poll,
    timeout: Duration,
    mut ask: impl FnMut() -> Result<bool, E>,
) -> Result<(), Failed<E>> {
    let start = now();
    loop {
        if ask().map_err(Failed::Error)? {
            return Ok(());
        }
        let waited = now().duration_since(start);
        if waited >= timeout {
            return Err(Failed::TimedOut);
        }
        pause_for(polling.pause(waited));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// The simulated duration of a yield.
    const YIELD: Duration = Duration::from_micros(10);

    /// Runs `wait_until` with a simulated clock that only pauses advance. Returns the result and the time that passed.
    fn with_clock(
        polling: Poll,
        timeout: Duration,
        ask: impl FnMut() -> Result<bool, &'static str>,
    ) -> (Result<(), Failed<&'static str>>, Duration) {
        let start = Instant::now();
        let time = Cell::new(start);
        let pause_for = |pause: Option<Duration>| time.set(time.get() + pause.unwrap_or(YIELD));
        let outcome = wait_until(|| time.get(), pause_for, polling, timeout, ask);
        (outcome, time.get() - start)
    }

    fn nth(n: usize) -> impl FnMut() -> Result<bool, &'static str> {
        let mut asked = 0;
        move || {
            asked += 1;
            Ok(asked == n)
        }
    }

    #[test]
    fn waiting_ends_with_success_an_error_or_the_timeout() {
        let second = Duration::from_secs(1);
        for polling in [Poll::Slow, Poll::Fast] {
            assert_eq!(with_clock(polling, second, nth(1)), (Ok(()), Duration::ZERO));
            assert_eq!(with_clock(polling, second, || Err("lost")).0, Err(Failed::Error("lost")));
            let (outcome, waited) = with_clock(polling, second, || Ok(false));
            assert_eq!(outcome, Err(Failed::TimedOut));
            assert!(waited >= second && waited <= second + Poll::PAUSE, "{waited:?}");
        }
    }

    #[test]
    fn fast_polling_yields_first_and_then_sleeps_shortly() {
        let second = Duration::from_secs(1);
        assert_eq!(with_clock(Poll::Slow, second, nth(3)), (Ok(()), 2 * Poll::PAUSE));
        assert_eq!(with_clock(Poll::Fast, second, nth(3)), (Ok(()), 2 * YIELD));
        // 200 yields are 2 ms.
        assert_eq!(with_clock(Poll::Fast, second, nth(204)), (Ok(()), Poll::YIELD_TIME + 3 * Poll::SHORT_PAUSE));
    }
}
