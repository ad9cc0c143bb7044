//! Tests of the NCCL binding with a stub that logs its calls, and with the real library if it is found.

use std::ffi::{CStr, c_char, c_int};
use std::sync::Arc;
use std::time::Duration;

use crate::support::emulator::compile_to_file;
use admiral_gpu::Kind;
use admiral_gpu::driver::StreamHandle;
use admiral_gpu::library::{Library, LibraryError, SearchPath, load};
use admiral_gpu::nccl::{Communicator, Nccl, NcclError};

const TIMEOUT: Duration = Duration::from_secs(60);
const STREAM: StreamHandle = StreamHandle(9 as *mut _);

struct Stub {
    nccl: Arc<Nccl>,
    library: libloading::Library,
}

impl Stub {
    fn new() -> Self {
        let (folder, path) = compile_to_file("nccl.cpp", include_str!("stubs/nccl.cpp"), &[]);
        let loaded = load(Library::Nccl, &SearchPath::default().with_file(Library::Nccl, &path)).unwrap();
        // SAFETY: its initializers only set plain variables.
        let library = unsafe { libloading::Library::new(&path) }.unwrap();
        drop(folder);
        Self { nccl: Nccl::from_library(loaded).unwrap(), library }
    }

    /// Sets the number of polls that return "in progress" (-1: all), the state after them, and the code that
    /// collectives return.
    fn set(&self, polls: c_int, then: c_int, enqueue: c_int) {
        // SAFETY: the stub's function has this type.
        unsafe { self.library.get::<extern "C" fn(c_int, c_int, c_int)>(b"stub_set").unwrap()(polls, then, enqueue) }
    }

    /// Makes collectives return "in progress", as well as the first poll after each. NCCL behaves like this if it
    /// launches on another thread.
    fn launch_later(&self) {
        // SAFETY: the stub's function has this type.
        unsafe { self.library.get::<extern "C" fn(c_int)>(b"stub_launch_later").unwrap()(1) }
    }

    /// Returns the number of polls.
    fn polls(&self) -> c_int {
        // SAFETY: the stub's function has this type.
        unsafe { self.library.get::<extern "C" fn() -> c_int>(b"stub_polls").unwrap()() }
    }

    fn call_log(&self) -> Vec<String> {
        // SAFETY: the stub's function has this type, and its text lives until the next call.
        let text = unsafe {
            let call_log = self.library.get::<extern "C" fn() -> *const c_char>(b"stub_call_log").unwrap();
            CStr::from_ptr(call_log()).to_string_lossy().into_owned()
        };
        text.lines().map(str::to_owned).collect()
    }

    fn join(&self, rank: usize, world: usize, timeout: Duration) -> Result<Communicator, NcclError> {
        Communicator::init(&self.nccl, &self.nccl.unique_id().unwrap(), rank, world, timeout)
    }
}

#[test]
fn a_rank_joins_enqueues_and_leaves_in_order() {
    let stub = Stub::new();
    assert_eq!(stub.nccl.version(), "2.27.5");
    stub.set(3, 0, 0);
    let mut ranks = stub.join(1, 4, TIMEOUT).unwrap();
    assert_eq!((ranks.rank(), ranks.world()), (1, 4));
    // SAFETY: the stub touches no memory.
    unsafe {
        ranks.all_reduce_in_place(64, 1000, Kind::Float, STREAM).unwrap();
        ranks.reduce_scatter(64, 128, 10, Kind::Half, STREAM).unwrap();
        ranks.all_gather(128, 64, 10, Kind::BFloat16, STREAM).unwrap();
        ranks
            .group(|ranks| {
                ranks.broadcast_in_place(64, 5, Kind::Float, 2, STREAM)?;
                ranks.broadcast_in_place(64, 6, Kind::Half, 0, STREAM)
            })
            .unwrap();
    }
    ranks.poll().unwrap();
    // The finalization takes a few polls too.
    stub.set(2, 0, 0);
    ranks.finish().unwrap();
    assert_eq!(
        stub.call_log(),
        [
            "init 1 of 4, id 42",
            "all-reduce in place 1, count 1000, type 7, stream 9",
            "reduce-scatter 64 to 128, count 10, stream 9",
            "all-gather 128 to 64, count 10, stream 9",
            "group",
            "broadcast in place 1, count 5, type 7, root 2",
            "broadcast in place 1, count 6, type 6, root 0",
            "end of group",
            "finalize",
            "destroy",
        ]
    );
}

#[test]
fn a_peer_that_never_joins_causes_a_timeout() {
    let stub = Stub::new();
    stub.set(-1, 0, 0);
    let error = stub.join(0, 2, Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error, NcclError::Timeout { call: "ncclCommInitRankConfig", rank: 0, world: 2, .. }), "{error}");
    assert_eq!(stub.call_log(), ["init 0 of 2, id 42", "abort"]);
}

#[test]
fn polling_reports_a_lost_peer_and_the_communicator_is_aborted_once() {
    let stub = Stub::new();
    let mut ranks = stub.join(0, 2, TIMEOUT).unwrap();
    ranks.poll().unwrap();
    stub.set(0, 6, 0);
    let text = ranks.poll().unwrap_err().to_string();
    assert!(text.contains("rank 0 of 2: remote process exited (6); it said: socket closed; NCCL_DEBUG=INFO"), "{text}");
    ranks.abort();
    // SAFETY: it is refused before anything runs.
    let error = unsafe { ranks.all_reduce_in_place(64, 1, Kind::Float, STREAM) }.unwrap_err();
    assert_eq!(error, NcclError::Aborted { call: "ncclAllReduce", rank: 0 });
    assert!(ranks.poll().is_err());
    drop(ranks);
    assert_eq!(stub.call_log(), ["init 0 of 2, id 42", "abort"], "an aborted communicator is not finalized");
}

#[test]
fn a_failed_call_is_named_and_a_call_in_progress_is_awaited() {
    let stub = Stub::new();
    let mut ranks = stub.join(0, 2, TIMEOUT).unwrap();
    stub.set(0, 0, 1);
    // SAFETY: the stub touches no memory.
    let error = unsafe { ranks.all_reduce_in_place(64, 1, Kind::Float, STREAM) }.unwrap_err();
    assert!(matches!(error, NcclError::Call { call: "ncclAllReduce", code: 1, .. }), "{error}");
    stub.set(3, 6, 7);
    // SAFETY: as above.
    let error = unsafe { ranks.all_reduce_in_place(64, 1, Kind::Float, STREAM) }.unwrap_err();
    assert!(matches!(error, NcclError::Call { call: "ncclAllReduce", code: 6, .. }), "{error}");
}

#[test]
fn a_call_that_nccl_launches_later_is_awaited() {
    let stub = Stub::new();
    let mut ranks = stub.join(0, 2, TIMEOUT).unwrap();
    stub.launch_later();
    let joined = stub.polls();
    // SAFETY: the stub touches no memory.
    unsafe { ranks.all_reduce_in_place(64, 1, Kind::Float, STREAM) }.unwrap();
    assert_eq!(stub.polls() - joined, 2, "once in progress, once done");
    ranks
        // SAFETY: as above.
        .group(|ranks| unsafe {
            ranks.broadcast_in_place(64, 5, Kind::Float, 0, STREAM)?;
            ranks.broadcast_in_place(64, 6, Kind::Half, 0, STREAM)
        })
        .unwrap();
    assert_eq!(stub.polls() - joined, 4, "a group is waited for once, at its end");
    // SAFETY: as above.
    unsafe { ranks.all_gather(128, 64, 10, Kind::BFloat16, STREAM) }.unwrap();
    assert_eq!(stub.polls() - joined, 6);
    ranks.finish().unwrap();
}

#[test]
fn a_group_is_ended_even_if_its_body_fails() {
    let stub = Stub::new();
    let mut ranks = stub.join(0, 2, TIMEOUT).unwrap();
    // SAFETY: it is refused before anything runs.
    let body = |ranks: &mut Communicator| unsafe { ranks.broadcast_in_place(64, 1, Kind::Float, 2, STREAM) };
    assert_eq!(ranks.group(body).unwrap_err(), NcclError::Rank { rank: 2, world: 2 });
    assert_eq!(stub.call_log()[1..], ["group", "end of group"]);
}

#[test]
fn a_finalization_that_hangs_is_aborted() {
    let stub = Stub::new();
    let ranks = stub.join(0, 2, Duration::from_millis(20)).unwrap();
    stub.set(-1, 0, 0);
    drop(ranks);
    assert_eq!(stub.call_log(), ["init 0 of 2, id 42", "finalize", "abort"]);
}

#[test]
fn invalid_ranks_are_refused() {
    let stub = Stub::new();
    for (rank, world) in [(2, 2), (0, 0), (0, 1 << 40)] {
        assert_eq!(stub.join(rank, world, TIMEOUT).unwrap_err(), NcclError::Rank { rank, world });
    }
}

#[test]
fn another_library_is_refused() {
    let loaded = load(Library::Nccl, &SearchPath::default().with_file(Library::Nccl, "libc.so.6")).unwrap();
    let error = Nccl::from_library(loaded).unwrap_err();
    assert!(matches!(&error, LibraryError::Symbol { symbol, .. } if symbol == "ncclGetVersion"), "{error}");
}

#[test]
fn the_real_library_has_every_function_and_reports_why_it_cannot_start() {
    // A library that the user named must be found.
    let is_required = ["ADMIRAL_NCCL", "ADMIRAL_REQUIRE_GPU"].into_iter().find(|name| std::env::var_os(name).is_some());
    let nccl = match (Nccl::load(&crate::support::search()), is_required) {
        (Ok(nccl), _) => nccl,
        (Err(error @ LibraryError::NotFound { .. }), None) => {
            println!("no NCCL, so this test is not run on the real one: {error}");
            return;
        }
        (Err(error), Some(name)) => panic!("{name} is set, but {error}"),
        (Err(error), None) => panic!("{error}"),
    };
    println!("on {nccl:?}");
    assert!(nccl.version().starts_with("2."), "{nccl:?}");
    let id = nccl.unique_id().unwrap();
    assert_ne!(id, nccl.unique_id().unwrap());
    if crate::support::machine::Machine::gpu().is_none() {
        // Without a GPU the communicator cannot be created. That must be an error, with nothing left to finalize.
        let error = Communicator::init(&nccl, &id, 0, 1, TIMEOUT).unwrap_err();
        assert!(matches!(&error, NcclError::Call { code: 1, .. }), "unhandled CUDA error, not {error:?}");
        return;
    }
    check_sum_over_one_rank(&nccl, &id);
}

fn check_sum_over_one_rank(nccl: &Arc<Nccl>, id: &admiral_gpu::nccl::UniqueId) {
    use admiral_gpu::driver::{Device, DeviceMemory, Driver, Stream};
    let device = Device::open(&Driver::load(&crate::support::search()).unwrap(), 0).unwrap();
    device.make_current().unwrap();
    let mut ranks = Communicator::init(nccl, id, 0, 1, TIMEOUT).unwrap();
    let stream = Stream::new(&device).unwrap();
    let bytes = crate::support::numbers::to_bytes(Kind::Float, &[1.0, -2.5, 3e7]);
    let memory = DeviceMemory::from_bytes(&device, &bytes).unwrap();
    // SAFETY: the memory has three floats, and the stream lives until it has been synchronized.
    unsafe { ranks.all_reduce_in_place(memory.address(), 3, Kind::Float, stream.handle()) }.unwrap();
    stream.synchronize().unwrap();
    ranks.poll().unwrap();
    assert_eq!(memory.read().unwrap(), bytes);
    ranks.finish().unwrap();
}
