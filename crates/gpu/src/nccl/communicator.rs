//! A rank's part of a group of ranks.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::api::{Comm, Config, Functions, IN_PROGRESS, Nccl, SUCCESS, UniqueId};
use super::error::NcclError;
use crate::driver::StreamHandle;
use crate::kind::Kind;
use crate::shape::DevicePointer;

const SUM: c_int = 0;

/// How to pass the time until a call that is under way has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// A start or an end: peers have to come to it, which takes them a while.
    Patient,
    /// What is enqueued: NCCL hands every call to a thread of its own, which is done with it after some microseconds,
    /// and a step has many.
    Eager,
}

impl Pace {
    const PAUSE: Duration = Duration::from_millis(5);
    const SHORT_PAUSE: Duration = Duration::from_micros(50);
    /// For so long an eager wait does not sleep: that alone takes longer than most calls.
    const YIELDS: Duration = Duration::from_millis(2);

    /// The pause before the next look, after so long a wait; `None` only lets other threads run.
    fn pause(self, waited: Duration) -> Option<Duration> {
        match self {
            Self::Patient => Some(Self::PAUSE),
            Self::Eager if waited < Self::YIELDS => None,
            Self::Eager => Some(Self::SHORT_PAUSE),
        }
    }
}

fn pass_time(pause: Option<Duration>) {
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
unsafe impl Send for Communicator {}

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
        if let Err(error) = this.wait(call, Pace::Patient) {
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
        let memory = address as *mut c_void;
        // SAFETY: the communicator is alive; memory and stream are good by the caller's word.
        self.enqueue("ncclAllReduce", |nccl, comm| unsafe {
            (nccl.all_reduce)(memory, memory, count, data_type(kind), SUM, comm, stream.0)
        })
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
        let (from, to) = (from as *const c_void, to as *mut c_void);
        // SAFETY: as above.
        self.enqueue("ncclReduceScatter", |nccl, comm| unsafe {
            (nccl.reduce_scatter)(from, to, count_of_part, data_type(kind), SUM, comm, stream.0)
        })
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
        let (from, to) = (from as *const c_void, to as *mut c_void);
        // SAFETY: as above.
        self.enqueue("ncclAllGather", |nccl, comm| unsafe {
            (nccl.all_gather)(from, to, count_of_part, data_type(kind), comm, stream.0)
        })
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
        if root >= self.world {
            return Err(NcclError::Rank { rank: root, world: self.world });
        }
        let memory = address as *mut c_void;
        // SAFETY: as above.
        self.enqueue("ncclBroadcast", |nccl, comm| unsafe {
            (nccl.broadcast)(memory, memory, count, data_type(kind), root as c_int, comm, stream.0)
        })
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
            let ended =
                self.check("ncclCommFinalize", code).and_then(|()| self.wait("ncclCommFinalize", Pace::Patient));
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

    /// Makes a call on a communicator that is alive, and waits until it is enqueued.
    fn enqueue(&mut self, call: &'static str, make: impl FnOnce(&Functions, Comm) -> c_int) -> Result<(), NcclError> {
        self.alive(call)?;
        let code = make(&self.nccl.functions, self.comm);
        self.enqueued(call, code)
    }

    /// A communicator that does not block may still be at work on a call; the next one has to wait for that.
    fn enqueued(&self, call: &'static str, code: c_int) -> Result<(), NcclError> {
        self.check(call, code)?;
        if code == IN_PROGRESS { self.wait(call, Pace::Eager) } else { Ok(()) }
    }

    fn wait(&self, call: &'static str, pace: Pace) -> Result<(), NcclError> {
        let (rank, world) = (self.rank, self.world);
        wait_until(Instant::now, pass_time, pace, self.patience, || self.state(call)).map_err(|failed| match failed {
            Failed::Deadline => NcclError::Deadline { call, rank, world, seconds: self.patience.as_secs() },
            Failed::Error(error) => error,
        })
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
    pass_time: impl Fn(Option<Duration>),
    pace: Pace,
    patience: Duration,
    mut ask: impl FnMut() -> Result<bool, E>,
) -> Result<(), Failed<E>> {
    let start = now();
    loop {
        if ask().map_err(Failed::Error)? {
            return Ok(());
        }
        let waited = now().duration_since(start);
        if waited >= patience {
            return Err(Failed::Deadline);
        }
        pass_time(pace.pause(waited));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// What another thread takes when this one yields.
    const YIELD: Duration = Duration::from_micros(10);

    /// With a clock that goes on by what is paused; how long that was, too.
    fn with_clock(
        pace: Pace,
        patience: Duration,
        ask: impl FnMut() -> Result<bool, &'static str>,
    ) -> (Result<(), Failed<&'static str>>, Duration) {
        let start = Instant::now();
        let time = Cell::new(start);
        let pass_time = |pause: Option<Duration>| time.set(time.get() + pause.unwrap_or(YIELD));
        let outcome = wait_until(|| time.get(), pass_time, pace, patience, ask);
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
    fn waiting_ends_with_yes_with_an_error_or_at_the_deadline() {
        let second = Duration::from_secs(1);
        for pace in [Pace::Patient, Pace::Eager] {
            assert_eq!(with_clock(pace, second, nth(1)), (Ok(()), Duration::ZERO));
            assert_eq!(with_clock(pace, second, || Err("lost")).0, Err(Failed::Error("lost")));
            let (outcome, waited) = with_clock(pace, second, || Ok(false));
            assert_eq!(outcome, Err(Failed::Deadline));
            assert!(waited >= second && waited <= second + Pace::PAUSE, "{waited:?}");
        }
    }

    #[test]
    fn what_is_enqueued_is_looked_at_without_sleep_and_then_often() {
        let second = Duration::from_secs(1);
        assert_eq!(with_clock(Pace::Patient, second, nth(3)), (Ok(()), 2 * Pace::PAUSE));
        assert_eq!(with_clock(Pace::Eager, second, nth(3)), (Ok(()), 2 * YIELD));
        // 200 yields are 2 ms.
        assert_eq!(with_clock(Pace::Eager, second, nth(204)), (Ok(()), Pace::YIELDS + 3 * Pace::SHORT_PAUSE));
    }
}
