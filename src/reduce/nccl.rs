//! The all-reduce of gradients on GPUs. NCCL runs on its own stream, which events order with libtorch's stream. No
//! value passes through the host, and the host waits for nothing until all sums are enqueued.

use std::sync::Arc;
use std::time::{Duration, Instant};

use admiral_comm::{Collective, CollectiveError, PhaseTracker};
use admiral_gpu::Kind;
use admiral_gpu::driver::{Device, DriverError, Event, Stream, StreamHandle};
use admiral_gpu::nccl::{Communicator, Nccl, NcclError, UniqueId};
use tch::Tensor;

use crate::gpus::Gpus;

/// The host polls the GPU without a pause for this long, so that it sees a step's last sum without delay.
const BUSY_POLLING: Duration = Duration::from_millis(2);
/// The time between two later polls.
const POLL_INTERVAL: Duration = Duration::from_micros(50);

/// Sums gradients between the ranks' GPUs with NCCL. Dropping it aborts the communicator at once, without waiting for
/// peers; [`NcclReducer::finish`] is the regular end.
pub struct NcclReducer {
    device: Arc<Device>,
    /// `None` after an abort.
    communicator: Option<Communicator>,
    rank: usize,
    world_size: usize,
    stream: Stream,
    events: Vec<BucketEvents>,
    after_backward: Event,
    patience: Duration,
    phases: PhaseTracker,
}

/// The events of a bucket in the streams.
struct BucketEvents {
    /// libtorch's stream has computed the bucket's gradients.
    ready: Event,
    /// NCCL's stream starts the sum.
    begun: Event,
    /// NCCL's stream has finished the sum.
    summed: Event,
}

/// A failure on the GPU or between GPUs.
#[derive(Debug, thiserror::Error)]
enum NcclFailure {
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error(transparent)]
    Nccl(#[from] NcclError),
    #[error("{what} has not finished after {} s", .patience.as_secs_f64())]
    Deadline { what: &'static str, patience: Duration },
    #[error("the sums were aborted before")]
    Aborted,
}

impl std::fmt::Debug for NcclReducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NcclReducer")
            .field("device", &self.device.ordinal())
            .field("communicator", &self.communicator)
            .finish()
    }
}

impl NcclReducer {
    /// Connects the ranks' GPUs; this rank uses GPU `ordinal`. All ranks call it, and all get the same result. The
    /// inner error says what is missing, and on which rank. `patience` is the timeout for a rank and for a sum.
    ///
    /// # Errors
    /// When the ranks cannot reach each other.
    pub fn open(
        collective: &dyn Collective,
        gpus: &Gpus,
        ordinal: usize,
        patience: Duration,
        phases: PhaseTracker,
    ) -> Result<Result<Self, String>, CollectiveError> {
        let nccl = Nccl::load(gpus.search()).map_err(|error| error.to_string());
        let found = nccl.and_then(|nccl| Ok((nccl, gpus.device(ordinal)?)));
        match all_or_none(collective, found)? {
            Ok((nccl, device)) => Self::join(collective, &nccl, &device, patience, phases),
            Err(reason) => Ok(Err(reason)),
        }
    }

    fn join(
        collective: &dyn Collective,
        nccl: &Arc<Nccl>,
        device: &Arc<Device>,
        patience: Duration,
        phases: PhaseTracker,
    ) -> Result<Result<Self, String>, CollectiveError> {
        let id = match collective.rank() {
            0 => nccl.unique_id().map(|id| id.as_bytes().to_vec()),
            _ => Ok(Vec::new()),
        };
        let mut id = match all_or_none(collective, id.map_err(|error| error.to_string()))? {
            Ok(id) => id,
            Err(reason) => return Ok(Err(reason)),
        };
        collective.broadcast(0, &mut id)?;
        let start = || -> Result<Self, String> {
            let bytes = <[u8; UniqueId::BYTES]>::try_from(id.as_slice()).map_err(|error| error.to_string())?;
            let (rank, world) = (collective.rank(), collective.world_size());
            Self::start(device, nccl, &UniqueId::from_bytes(bytes), (rank, world), patience, phases)
                .map_err(|failure| failure.to_string())
        };
        all_or_none(collective, start())
    }

    fn start(
        device: &Arc<Device>,
        nccl: &Arc<Nccl>,
        id: &UniqueId,
        (rank, world): (usize, usize),
        patience: Duration,
        phases: PhaseTracker,
    ) -> Result<Self, NcclFailure> {
        device.make_current()?;
        let (stream, after_backward) = (Stream::new(device)?, Event::new(device, true)?);
        let communicator = Some(Communicator::init(nccl, id, rank, world, patience)?);
        let device = Arc::clone(device);
        Ok(Self {
            device,
            communicator,
            rank,
            world_size: world,
            stream,
            events: Vec::new(),
            after_backward,
            patience,
            phases,
        })
    }

    /// Enqueues the in-place sum of a bucket, contiguous float32, after the work that libtorch's stream has at this
    /// time. Buckets are enqueued in order, from number 0. The memory must live until [`NcclReducer::wait`] has
    /// returned for the bucket.
    ///
    /// # Errors
    /// When the driver or NCCL fails. The communicator is then aborted.
    pub(super) fn enqueue(&mut self, number: usize, values: &Tensor) -> Result<(), CollectiveError> {
        let outcome = self.try_enqueue(number, values);
        self.or_abort(number, outcome)
    }

    fn try_enqueue(&mut self, number: usize, values: &Tensor) -> Result<(), NcclFailure> {
        // Each call may come from another thread.
        self.device.make_current()?;
        while self.events.len() <= number {
            let event = |timed| Event::new(&self.device, timed);
            self.events.push(BucketEvents { ready: event(false)?, begun: event(true)?, summed: event(true)? });
        }
        let (events, stream) = (&self.events[number], self.stream.handle());
        let communicator = self.communicator.as_mut().ok_or(NcclFailure::Aborted)?;
        // SAFETY: the default stream always exists, and NCCL's stream lives as long as `self`. The values are in flat
        // memory, which outlives a step.
        unsafe {
            events.ready.record(StreamHandle::DEFAULT)?;
            events.ready.make_wait(stream)?;
            events.begun.record(stream)?;
            communicator.all_reduce_in_place(values.data_ptr() as u64, values.numel(), Kind::Float, stream)?;
            events.summed.record(stream)?;
        }
        Ok(())
    }

    /// Marks the end of backward in libtorch's stream: all of it is enqueued, and sums after this point are exposed.
    ///
    /// # Errors
    /// As [`NcclReducer::enqueue`].
    pub(super) fn backward_ends(&mut self) -> Result<(), CollectiveError> {
        // SAFETY: the default stream always exists.
        let outcome = unsafe { self.after_backward.record(StreamHandle::DEFAULT) };
        self.or_abort(0, outcome.map_err(NcclFailure::from))
    }

    /// Waits until this rank's GPU has computed a bucket's gradients, calls `enter`, and waits until the bucket is
    /// summed. Then it drops the value that `enter` returned. Work that libtorch enqueues afterwards sees the sums.
    ///
    /// # Errors
    /// When a peer is lost or the timeout ends. The communicator is then aborted, so that the GPU's kernels end too.
    pub(super) fn wait<T>(&mut self, number: usize, enter: impl FnOnce() -> T) -> Result<(), CollectiveError> {
        let outcome = self.wait_until_passed(&self.events[number].ready, "backward on this rank's GPU");
        self.or_abort(number, outcome)?;
        let entered = enter();
        let outcome = self.wait_until_passed(&self.events[number].summed, "the sum over the ranks");
        // SAFETY: the default stream always exists.
        let order =
            || unsafe { self.events[number].summed.make_wait(StreamHandle::DEFAULT) }.map_err(NcclFailure::from);
        let outcome = outcome.and_then(|()| order());
        self.or_abort(number, outcome)?;
        drop(entered);
        Ok(())
    }

    /// Polls until the GPU has passed an event. `what` names the work before it.
    fn wait_until_passed(&self, event: &Event, what: &'static str) -> Result<(), NcclFailure> {
        let start = Instant::now();
        let communicator = self.communicator.as_ref().ok_or(NcclFailure::Aborted)?;
        while !event.is_passed()? {
            communicator.poll()?;
            let waited = start.elapsed();
            if waited >= self.patience {
                return Err(NcclFailure::Deadline { what, patience: self.patience });
            }
            if waited < BUSY_POLLING { std::thread::yield_now() } else { std::thread::sleep(POLL_INTERVAL) }
        }
        Ok(())
    }

    /// Returns the total duration of the sums of `count` buckets on the GPU, including waiting for ranks that start
    /// later, and the part of it after backward. All these buckets must have been waited for.
    ///
    /// # Errors
    /// As [`NcclReducer::enqueue`].
    pub(super) fn durations(&mut self, count: usize) -> Result<(Duration, Duration), CollectiveError> {
        let spans = self.events[..count].iter().map(|events| {
            let since = |event: &Event| event.seconds_since(&self.after_backward);
            Ok((since(&events.begun)?, since(&events.summed)?))
        });
        let outcome = spans.collect::<Result<Vec<(f64, f64)>, DriverError>>().map(|spans| busy_and_exposed(&spans));
        self.or_abort(count, outcome.map_err(NcclFailure::from))
    }

    /// Closes the communicator, which waits for all ranks. Every rank calls it.
    ///
    /// # Errors
    /// When a rank does not call it within the timeout.
    pub fn finish(mut self) -> Result<(), CollectiveError> {
        let finished = self.communicator.take().map_or(Ok(()), Communicator::finish);
        self.or_abort(0, finished.map_err(NcclFailure::from))
    }

    fn abort(&mut self) {
        if let Some(mut communicator) = self.communicator.take() {
            communicator.abort();
        }
    }

    /// Returns the value, or aborts the communicator and returns the failure with the ledger's state.
    fn or_abort<T>(&mut self, bucket: usize, outcome: Result<T, NcclFailure>) -> Result<T, CollectiveError> {
        outcome.map_err(|failure| {
            self.abort();
            let (message, standing) = (failure.to_string(), self.phases.describe());
            CollectiveError::Gpu { rank: self.rank, world_size: self.world_size, bucket, message, standing }
        })
    }
}

impl Drop for NcclReducer {
    fn drop(&mut self) {
        // A rank that fails alone must not wait for its peers. They detect the failure themselves.
        self.abort();
    }
}

/// Returns (total, the part after backward) of spans given in seconds from the end of backward.
fn busy_and_exposed(spans: &[(f64, f64)]) -> (Duration, Duration) {
    let sum = |length: fn(&(f64, f64)) -> f64| Duration::from_secs_f64(spans.iter().map(length).sum::<f64>().max(0.0));
    (sum(|(begin, end)| end - begin), sum(|(begin, end)| end.max(0.0) - begin.max(0.0)))
}

/// Returns this rank's value if all ranks have one, else the reason of the first rank that has none.
fn all_or_none<T>(collective: &dyn Collective, own: Result<T, String>) -> Result<Result<T, String>, CollectiveError> {
    // Ranks with a value gather no bytes, so a reason is never empty.
    let reason = own.as_ref().err().map_or_else(String::new, |reason| format!("rank {}: {reason}", collective.rank()));
    let reasons = collective.all_gather(reason.as_bytes())?;
    Ok(match reasons.iter().find(|reason| !reason.is_empty()) {
        Some(reason) => Err(String::from_utf8_lossy(reason).into_owned()),
        None => own,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ffi::{CStr, c_char, c_int};

    use admiral_comm::buckets::Slot;
    use admiral_gpu::driver::Driver;
    use admiral_gpu::library::{self, Library, SearchPath};
    use tch::Device as TorchDevice;

    use crate::emulator;

    use super::super::gradients::GradientReducer;
    use super::super::mock::MockPeer;
    use super::*;

    struct Stub {
        library: libloading::Library,
        device: Arc<Device>,
        nccl: Arc<Nccl>,
    }

    impl Stub {
        fn new() -> Self {
            let text = include_str!("../../tests/support/gpu_stub.cpp");
            let (folder, path) = emulator::compile_to_file("gpu_stub.cpp", text, &[]);
            let load = |which| library::load(which, &SearchPath::default().with_file(which, &path)).unwrap();
            let driver = Driver::from_library(load(Library::Driver)).unwrap();
            let nccl = Nccl::from_library(load(Library::Nccl)).unwrap();
            // SAFETY: the library's initializers only set plain variables.
            let library = unsafe { libloading::Library::new(&path) }.unwrap();
            drop(folder);
            Self { library, device: Device::open(&driver, 0).unwrap(), nccl }
        }

        fn nccl_reducer(&self, patience: Duration) -> NcclReducer {
            NcclReducer::join(&MockPeer(Vec::new()), &self.nccl, &self.device, patience, PhaseTracker::private())
                .unwrap()
                .unwrap()
        }

        fn reducer(&self, patience: Duration) -> GradientReducer {
            let slot = |buffer, start| Slot { buffer, elements: start..start + 8 };
            let mut reducer = GradientReducer::new(&[slot(0, 0), slot(1, 0), slot(0, 16)], 1, PhaseTracker::private());
            reducer.use_nccl(self.nccl_reducer(patience));
            reducer
        }

        fn set(&self, not_yet: c_int, peer_state: c_int) {
            // SAFETY: the stub's function has this type.
            unsafe { self.library.get::<extern "C" fn(c_int, c_int)>(b"stub_set").unwrap()(not_yet, peer_state) }
        }

        fn log(&self) -> Vec<String> {
            // SAFETY: the stub's function has this type, and its text lives until the next entry.
            let text = unsafe {
                let log = self.library.get::<extern "C" fn() -> *const c_char>(b"stub_log").unwrap();
                CStr::from_ptr(log()).to_string_lossy().into_owned()
            };
            text.lines().map(str::to_owned).collect()
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    /// A float32 buffer of ones and a half-precision buffer of threes.
    fn gradients() -> [Tensor; 2] {
        let full = |value: f64, kind| Tensor::full([24], value, (kind, TorchDevice::Cpu));
        [full(1.0, tch::Kind::Float), full(3.0, tch::Kind::Half)]
    }

    fn check(buffers: &[Tensor], sums: &[Tensor]) {
        let values = |sum: &Tensor| Vec::<f32>::try_from(sum).unwrap();
        assert_eq!(sums[0].data_ptr(), buffers[0].data_ptr(), "float32 is summed in place");
        for slot in [0..8, 16..24] {
            assert!(values(&sums[0])[slot].iter().all(|&sum| sum == 2.0));
        }
        assert!(values(&sums[1])[..8].iter().all(|&sum| sum == 6.0), "half-precision gradients are summed in float32");
        assert_eq!(buffers[1].double_value(&[0]), 3.0);
    }

    #[test]
    fn events_order_sums_between_both_streams() {
        let stub = Stub::new();
        let mut reducer = stub.reducer(LONG);
        stub.set(3, 0);
        let buffers = gradients();
        let reduced = reducer.reduce(&MockPeer(Vec::new()), &[&buffers[0], &buffers[1]]).unwrap();
        check(&buffers, &reduced.sums);
        let bucket = |first: i32, values: i32| {
            vec![
                format!("event {first} in 0"),
                format!("77 waits for event {first}"),
                format!("event {} in 77", first + 1),
                format!("sum of {values} in 77"),
                format!("event {} in 77", first + 2),
            ]
        };
        let mut wanted = vec!["rank 0 joins with id 42".to_owned(), "event 1 in 0".to_owned()];
        wanted.extend([bucket(2, 8), bucket(5, 8), bucket(8, 8)].concat());
        // libtorch's stream waits for each sum.
        wanted.extend([4, 7, 10].map(|event| format!("0 waits for event {event}")));
        assert_eq!(stub.log(), wanted);
        // Each sum takes one tick of the stub's clock. All sums are after backward.
        assert_eq!((reduced.busy, reduced.exposed), (Duration::from_millis(3), Duration::from_millis(3)));
        reducer.finish().unwrap();
        assert_eq!(stub.log()[wanted.len()..], ["finalize", "destroy"]);
    }

    #[test]
    fn buckets_are_enqueued_while_backward_runs() {
        let stub = Stub::new();
        let mut reducer = stub.reducer(LONG);
        let buffers = gradients();
        let tracker = reducer.tracker();
        let seen = std::cell::Cell::new(0);
        let reduced = reducer.reduce_during(&MockPeer(Vec::new()), &[&buffers[0], &buffers[1]], || {
            // The first bucket has the last parameters of the network.
            tracker.mark_filled(2);
            let start = Instant::now();
            while seen.get() == 0 && start.elapsed() < LONG {
                seen.set(stub.log().iter().filter(|line| line.starts_with("sum")).count());
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok::<(), CollectiveError>(())
        });
        let reduced = reduced.unwrap();
        assert_eq!(seen.get(), 1, "only the first bucket was filled");
        check(&buffers, &reduced.sums);
        // Only the last bucket is summed after backward.
        assert_eq!((reduced.busy, reduced.exposed), (Duration::from_millis(3), Duration::from_millis(1)));
        assert_eq!(stub.log().iter().filter(|line| line.starts_with("sum")).count(), 3);
    }

    #[test]
    fn a_lost_or_stalled_peer_ends_the_sums_with_an_error_that_quotes_the_ledger() {
        for (patience, peer_state, reason) in
            [(LONG, 6, "remote process exited"), (Duration::from_millis(20), 0, "has not finished after 0.02 s")]
        {
            let stub = Stub::new();
            let mut reducer = stub.reducer(patience);
            stub.set(-1, peer_state);
            let buffers = gradients();
            let mut reduce =
                || reducer.reduce(&MockPeer(Vec::new()), &[&buffers[0], &buffers[1]]).unwrap_err().to_string();
            let text = reduce();
            let start = "bucket 0 of the gradients was not summed on rank 0 of 2: ";
            assert!(text.starts_with(start) && text.contains(reason), "{text}");
            assert!(text.contains("the ledger says: step "), "{text}");
            assert_eq!(stub.log().last().unwrap(), "abort", "an abort ends kernels that wait for peers");
            assert!(reduce().contains("were aborted before"));
        }
    }

    #[test]
    fn a_dropped_reducer_aborts_without_waiting_for_peers() {
        let stub = Stub::new();
        drop(stub.nccl_reducer(LONG));
        assert_eq!(stub.log(), ["rank 0 joins with id 42", "abort"]);
    }

    #[test]
    fn a_rank_without_nccl_is_named_and_no_rank_uses_nccl() {
        let stub = Stub::new();
        let peer = MockPeer(b"rank 1: NCCL was not found".to_vec());
        let reason =
            NcclReducer::join(&peer, &stub.nccl, &stub.device, LONG, PhaseTracker::private()).unwrap().unwrap_err();
        assert_eq!(reason, "rank 1: NCCL was not found");
        assert!(stub.log().is_empty());
        let own = all_or_none(&peer, Err::<(), _>("no GPU".to_owned())).unwrap();
        assert_eq!(own, Err("rank 0: no GPU".to_owned()));
    }

    #[test]
    fn time_after_backward_is_exposed() {
        let millis = |spans: &[(f64, f64)]| {
            let (busy, exposed) = busy_and_exposed(spans);
            (busy.as_millis(), exposed.as_millis())
        };
        assert_eq!(millis(&[(-0.5, -0.25), (-0.25, 0.5), (0.5, 1.0)]), (1500, 1000));
        assert_eq!(millis(&[]), (0, 0));
    }
}
