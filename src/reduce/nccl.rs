//! Sums of gradients on GPUs: NCCL on a stream of its own, ordered with libtorch's by events. No value passes through
//! the host, and the host waits for nothing before all sums are under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use admiral_comm::{Collective, CollectiveError, PhaseTracker};
use admiral_gpu::Kind;
use admiral_gpu::driver::{Device, DriverError, Event, Stream, StreamHandle};
use admiral_gpu::nccl::{Communicator, Nccl, NcclError, UniqueId};
use tch::Tensor;

use crate::gpus::Gpus;

/// For so long the host looks at the GPU without a pause: a step's last sum is not to be seen late.
const EAGER: Duration = Duration::from_millis(2);
/// Between two later looks.
const PAUSE: Duration = Duration::from_micros(50);

/// This rank's part of a group of ranks whose GPUs sum together. Dropped, it ends at once, and lets peers that wait for
/// it go on waiting; [`NcclReducer::finish`] is the end in order.
pub struct NcclReducer {
    device: Arc<Device>,
    /// None once they were aborted.
    ranks: Option<Communicator>,
    rank: usize,
    world_size: usize,
    stream: Stream,
    marks: Vec<Marks>,
    after_backward: Event,
    patience: Duration,
    phases: PhaseTracker,
}

/// Where the sum of a bucket is, in the streams.
struct Marks {
    /// libtorch's stream has made the bucket's gradients.
    ready: Event,
    /// Ours is about to sum them.
    begun: Event,
    /// It has.
    summed: Event,
}

/// What went wrong on the GPU or between GPUs.
#[derive(Debug, thiserror::Error)]
enum NcclFailure {
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error(transparent)]
    Nccl(#[from] NcclError),
    #[error("{what} has not come to its end after {} s", .patience.as_secs_f64())]
    Deadline { what: &'static str, patience: Duration },
    #[error("the sums were aborted before")]
    Aborted,
}

impl std::fmt::Debug for NcclReducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NcclReducer").field("device", &self.device.ordinal()).field("ranks", &self.ranks).finish()
    }
}

impl NcclReducer {
    /// Joins the ranks' GPUs, this rank's being `ordinal`; all ranks call it, and all get the same answer: the inner
    /// error says what is missing on which rank. `patience` is how long a rank, or a sum, may be waited for.
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
                .map_err(|wrong| wrong.to_string())
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
        let ranks = Communicator::init(nccl, id, rank, world, patience)?;
        let device = Arc::clone(device);
        let ranks = Some(ranks);
        Ok(Self { device, ranks, rank, world_size: world, stream, marks: Vec::new(), after_backward, patience, phases })
    }

    /// Enqueues the sum of a bucket, contiguous float32, in place, behind what libtorch's stream holds by now. Buckets
    /// come in the order of their numbers, from 0; the memory stays until [`NcclReducer::wait`] has seen the sum.
    ///
    /// # Errors
    /// What the driver or NCCL says; everything is aborted then.
    pub(super) fn enqueue(&mut self, number: usize, values: &Tensor) -> Result<(), CollectiveError> {
        let outcome = self.try_enqueue(number, values);
        self.or_abort(number, outcome)
    }

    fn try_enqueue(&mut self, number: usize, values: &Tensor) -> Result<(), NcclFailure> {
        // The thread may be another one each time.
        self.device.make_current()?;
        while self.marks.len() <= number {
            let event = |timed| Event::new(&self.device, timed);
            self.marks.push(Marks { ready: event(false)?, begun: event(true)?, summed: event(true)? });
        }
        let (marks, stream) = (&self.marks[number], self.stream.handle());
        let ranks = self.ranks.as_mut().ok_or(NcclFailure::Aborted)?;
        // SAFETY: both streams live: the default one always, ours as long as `self`. The values are flat memory of
        // training, which outlives a step.
        unsafe {
            marks.ready.record(StreamHandle::DEFAULT)?;
            marks.ready.make_wait(stream)?;
            marks.begun.record(stream)?;
            ranks.all_reduce_in_place(values.data_ptr() as u64, values.numel(), Kind::Float, stream)?;
            marks.summed.record(stream)?;
        }
        Ok(())
    }

    /// All of backward is enqueued: from here on sums are not hidden behind it.
    ///
    /// # Errors
    /// As [`NcclReducer::enqueue`].
    pub(super) fn backward_ends(&mut self) -> Result<(), CollectiveError> {
        // SAFETY: the default stream is always there.
        let outcome = unsafe { self.after_backward.record(StreamHandle::DEFAULT) };
        self.or_abort(0, outcome.map_err(NcclFailure::from))
    }

    /// Waits until this rank's GPU has come to a bucket, calls `enter`, and waits until the bucket is summed; what
    /// `enter` returns is dropped then. What libtorch enqueues afterwards sees the sums.
    ///
    /// # Errors
    /// When a peer is lost or the patience ends; everything is aborted then, so that the GPU's kernels end too.
    pub(super) fn wait<T>(&mut self, number: usize, enter: impl FnOnce() -> T) -> Result<(), CollectiveError> {
        let outcome = self.until(&self.marks[number].ready, "backward on this rank's GPU");
        self.or_abort(number, outcome)?;
        let entered = enter();
        let outcome = self.until(&self.marks[number].summed, "the sum over the ranks");
        // SAFETY: the default stream is always there.
        let held = || unsafe { self.marks[number].summed.make_wait(StreamHandle::DEFAULT) }.map_err(NcclFailure::from);
        let outcome = outcome.and_then(|()| held());
        self.or_abort(number, outcome)?;
        drop(entered);
        Ok(())
    }

    fn until(&self, event: &Event, what: &'static str) -> Result<(), NcclFailure> {
        let start = Instant::now();
        let ranks = self.ranks.as_ref().ok_or(NcclFailure::Aborted)?;
        while !event.is_passed()? {
            ranks.poll()?;
            let waited = start.elapsed();
            if waited >= self.patience {
                return Err(NcclFailure::Deadline { what, patience: self.patience });
            }
            if waited < EAGER { std::thread::yield_now() } else { std::thread::sleep(PAUSE) }
        }
        Ok(())
    }

    /// What the sums of `count` buckets took on the GPU, waiting for ranks that came later included, and the part of it
    /// that lay behind backward. All of them must have been waited for.
    ///
    /// # Errors
    /// As [`NcclReducer::enqueue`].
    pub(super) fn spent(&mut self, count: usize) -> Result<(Duration, Duration), CollectiveError> {
        let spans = self.marks[..count].iter().map(|marks| {
            let since = |event: &Event| event.seconds_since(&self.after_backward);
            Ok((since(&marks.begun)?, since(&marks.summed)?))
        });
        let outcome = spans.collect::<Result<Vec<(f64, f64)>, DriverError>>().map(|spans| busy_and_exposed(&spans));
        self.or_abort(count, outcome.map_err(NcclFailure::from))
    }

    /// Ends in order: waits until all ranks have come here.
    ///
    /// # Errors
    /// When one does not come.
    pub fn finish(mut self) -> Result<(), CollectiveError> {
        let ended = self.ranks.take().map_or(Ok(()), Communicator::finish);
        self.or_abort(0, ended.map_err(NcclFailure::from))
    }

    fn abort(&mut self) {
        if let Some(mut ranks) = self.ranks.take() {
            ranks.abort();
        }
    }

    fn or_abort<T>(&mut self, bucket: usize, outcome: Result<T, NcclFailure>) -> Result<T, CollectiveError> {
        outcome.map_err(|wrong| {
            self.abort();
            let (message, standing) = (wrong.to_string(), self.phases.describe());
            CollectiveError::Gpu { rank: self.rank, world_size: self.world_size, bucket, message, standing }
        })
    }
}

impl Drop for NcclReducer {
    fn drop(&mut self) {
        // A rank that fails alone must not wait for peers here: they learn of it otherwise.
        self.abort();
    }
}

/// Returns (total, the part after backward) of spans given in seconds from the end of backward.
fn busy_and_exposed(spans: &[(f64, f64)]) -> (Duration, Duration) {
    let sum = |length: fn(&(f64, f64)) -> f64| Duration::from_secs_f64(spans.iter().map(length).sum::<f64>().max(0.0));
    (sum(|(begin, end)| end - begin), sum(|(begin, end)| end.max(0.0) - begin.max(0.0)))
}

/// What all ranks have, or the reason of the first that has not.
fn all_or_none<T>(collective: &dyn Collective, own: Result<T, String>) -> Result<Result<T, String>, CollectiveError> {
    // Nothing is said where all is well, so a reason begins with something.
    let said = own.as_ref().err().map_or_else(String::new, |reason| format!("rank {}: {reason}", collective.rank()));
    let reasons = collective.all_gather(said.as_bytes())?;
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
            // SAFETY: its initialisers are those of plain variables.
            let library = unsafe { libloading::Library::new(&path) }.unwrap();
            drop(folder);
            Self { library, device: Device::open(&driver, 0).unwrap(), nccl }
        }

        fn sums(&self, patience: Duration) -> NcclReducer {
            NcclReducer::join(&MockPeer(Vec::new()), &self.nccl, &self.device, patience, PhaseTracker::private())
                .unwrap()
                .unwrap()
        }

        fn reducer(&self, patience: Duration) -> GradientReducer {
            let slot = |buffer, start| Slot { buffer, elements: start..start + 8 };
            let mut reducer = GradientReducer::new(&[slot(0, 0), slot(1, 0), slot(0, 16)], 1, PhaseTracker::private());
            reducer.use_nccl(self.sums(patience));
            reducer
        }

        fn set(&self, not_yet: c_int, peer_state: c_int) {
            // SAFETY: the stub's function has this type.
            unsafe { self.library.get::<extern "C" fn(c_int, c_int)>(b"stub_set").unwrap()(not_yet, peer_state) }
        }

        fn diary(&self) -> Vec<String> {
            // SAFETY: the stub's function has this type, and its text lives until the next entry.
            let text = unsafe {
                let diary = self.library.get::<extern "C" fn() -> *const c_char>(b"stub_diary").unwrap();
                CStr::from_ptr(diary()).to_string_lossy().into_owned()
            };
            text.lines().map(str::to_owned).collect()
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    /// A float32 buffer of ones and a half one of threes.
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
        assert!(values(&sums[1])[..8].iter().all(|&sum| sum == 6.0), "half gradients are summed in float32");
        assert_eq!(buffers[1].double_value(&[0]), 3.0);
    }

    #[test]
    fn sums_lie_between_events_of_both_streams() {
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
        assert_eq!(stub.diary(), wanted);
        // Each sum takes one tick of the stub's clock, all of them behind backward.
        assert_eq!((reduced.busy, reduced.exposed), (Duration::from_millis(3), Duration::from_millis(3)));
        reducer.finish().unwrap();
        assert_eq!(stub.diary()[wanted.len()..], ["finalize", "destroy"]);
    }

    #[test]
    fn buckets_are_enqueued_while_backward_goes_on() {
        let stub = Stub::new();
        let mut reducer = stub.reducer(LONG);
        let buffers = gradients();
        let tracker = reducer.tracker();
        let seen = std::cell::Cell::new(0);
        let reduced = reducer.reduce_during(&MockPeer(Vec::new()), &[&buffers[0], &buffers[1]], || {
            // Buckets come from the end of the network.
            tracker.filled(2);
            let start = Instant::now();
            while seen.get() == 0 && start.elapsed() < LONG {
                seen.set(stub.diary().iter().filter(|line| line.starts_with("sum")).count());
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok::<(), CollectiveError>(())
        });
        let reduced = reduced.unwrap();
        assert_eq!(seen.get(), 1, "the first bucket alone was filled");
        check(&buffers, &reduced.sums);
        // Only the last bucket lies behind backward.
        assert_eq!((reduced.busy, reduced.exposed), (Duration::from_millis(3), Duration::from_millis(1)));
        assert_eq!(stub.diary().iter().filter(|line| line.starts_with("sum")).count(), 3);
    }

    #[test]
    fn a_lost_peer_and_one_that_stands_still_end_the_sums_with_what_the_ledger_says() {
        for (patience, peer_state, reason) in
            [(LONG, 6, "remote process exited"), (Duration::from_millis(20), 0, "has not come to its end after 0.02 s")]
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
            assert_eq!(stub.diary().last().unwrap(), "abort", "kernels that wait for peers end");
            assert!(reduce().contains("were aborted before"));
        }
    }

    #[test]
    fn who_fails_alone_does_not_wait_for_peers_at_its_end() {
        let stub = Stub::new();
        drop(stub.sums(LONG));
        assert_eq!(stub.diary(), ["rank 0 joins with id 42", "abort"]);
    }

    #[test]
    fn one_rank_without_nccl_is_named_and_all_sum_through_the_host() {
        let stub = Stub::new();
        let twins = MockPeer(b"rank 1: NCCL was not found".to_vec());
        let reason =
            NcclReducer::join(&twins, &stub.nccl, &stub.device, LONG, PhaseTracker::private()).unwrap().unwrap_err();
        assert_eq!(reason, "rank 1: NCCL was not found");
        assert!(stub.diary().is_empty());
        let own = all_or_none(&twins, Err::<(), _>("no GPU".to_owned())).unwrap();
        assert_eq!(own, Err("rank 0: no GPU".to_owned()));
    }

    #[test]
    fn what_lies_behind_backward_is_exposed() {
        let of = |spans: &[(f64, f64)]| {
            let (busy, exposed) = busy_and_exposed(spans);
            (busy.as_millis(), exposed.as_millis())
        };
        assert_eq!(of(&[(-0.5, -0.25), (-0.25, 0.5), (0.5, 1.0)]), (1500, 1000));
        assert_eq!(of(&[]), (0, 0));
    }
}
