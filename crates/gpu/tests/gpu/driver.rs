//! Tests of the driver binding with a stub that checks CUDA's rules. The tests of the kernels use the real driver.

use std::ffi::c_int;
use std::sync::Arc;

use crate::support::emulator::compile_to_file;
use admiral_gpu::Shape;
use admiral_gpu::driver::{Device, DeviceMemory, Driver, DriverError, Event, Module, Stream};
use admiral_gpu::library::{Library, SearchPath, load};
use admiral_gpu::nvrtc::Architecture;

struct Stub {
    driver: Arc<Driver>,
    library: libloading::Library,
}

impl Stub {
    fn new() -> Self {
        let (folder, path) = compile_to_file("driver.cpp", include_str!("stubs/driver.cpp"), &[]);
        let loaded = load(Library::Driver, &SearchPath::default().with_file(Library::Driver, &path)).unwrap();
        // SAFETY: it has no initializers.
        let library = unsafe { libloading::Library::new(&path) }.unwrap();
        drop(folder);
        Self { driver: Driver::from_library(loaded).unwrap(), library }
    }

    fn number(&self, name: &str) -> c_int {
        // SAFETY: the stub's functions with these names have this type.
        unsafe { self.library.get::<extern "C" fn() -> c_int>(name.as_bytes()).unwrap()() }
    }
}

#[test]
fn properties_of_a_device_are_read() {
    let stub = Stub::new();
    assert_eq!(stub.driver.version(), "12.8");
    assert_eq!(stub.driver.device_count().unwrap(), 2);
    let device = Device::open(&stub.driver, 1).unwrap();
    assert_eq!(device.name().unwrap(), "Stub 1");
    assert_eq!(device.architecture().unwrap(), Architecture { major: 9, minor: 0 });
    assert_eq!(device.multiprocessors().unwrap(), 132);
    assert_eq!(device.total_memory().unwrap(), 80 << 30);
    assert_eq!(device.free_memory().unwrap(), 7);
    let none = Device::open(&stub.driver, 2).unwrap_err();
    assert_eq!(none, DriverError::NoDevice { ordinal: 2, count: 2 });
    device.make_current().unwrap();
    assert_eq!(stub.number("stub_depth"), 1);
}

#[test]
fn streams_events_and_memory_leave_the_callers_context_unchanged() {
    let stub = Stub::new();
    let device = Device::open(&stub.driver, 0).unwrap();
    let stream = Stream::new(&device).unwrap();
    let (start, end) = (Event::new(&device, true).unwrap(), Event::new(&device, true).unwrap());
    // SAFETY: the stream lives.
    unsafe {
        start.record(stream.handle()).unwrap();
        assert!(!start.is_passed().unwrap());
        start.make_wait(stream.handle()).unwrap();
        end.record(stream.handle()).unwrap();
    }
    assert!(end.is_passed().unwrap());
    assert!((end.seconds_since(&start).unwrap() - 1.5).abs() < 1e-6);
    stream.synchronize().unwrap();
    let memory = DeviceMemory::from_bytes(&device, b"device").unwrap();
    assert_eq!(memory.read().unwrap(), b"device");
    memory.copy_from(&DeviceMemory::from_bytes(&device, b"DEV").unwrap(), &stream).unwrap();
    assert_eq!(memory.read().unwrap(), b"DEVice");
    assert_eq!(stub.number("stub_held"), 4, "context, stream, two events");
    drop((start, end, stream, memory, device));
    assert_eq!(stub.number("stub_held"), 0, "everything is released");
    assert_eq!(stub.number("stub_depth"), 0, "every pushed context is popped");
}

#[test]
fn a_launch_passes_shape_stream_and_argument_and_reports_failures() {
    let stub = Stub::new();
    let device = Device::open(&stub.driver, 0).unwrap();
    let not_code = Module::load(&device, b"text").unwrap_err().to_string();
    assert!(not_code.starts_with("cuModuleLoadData failed on GPU 0: CUDA_ERROR (200)"), "{not_code}");
    let module = Module::load(&device, b"\x7fELF and so on").unwrap();
    assert!(module.function("other").unwrap_err().to_string().starts_with("cuModuleGetFunction failed"));
    let function = module.function("kernel").unwrap();
    let stream = Stream::new(&device).unwrap();
    let shape = Shape { grid: [2, 3, 4], block: 96, shared_bytes: 128 };
    let argument = 0x0123_4567_89ab_cdef_i64;
    let launch = || {
        // SAFETY: the stub reads eight bytes of the argument.
        unsafe { module.launch(function, &shape, stream.handle(), std::ptr::from_ref(&argument).cast()) }
    };
    launch().unwrap();
    let (mut numbers, mut found) = ([0; 10], 0i64);
    // SAFETY: the stub's functions have these types.
    unsafe {
        stub.library.get::<extern "C" fn(*mut c_int, *mut i64)>(b"stub_launched").unwrap()(
            numbers.as_mut_ptr(),
            &mut found,
        );
        stub.library.get::<extern "C" fn(c_int)>(b"stub_fail_launches").unwrap()(700);
    }
    assert_eq!(numbers, [2, 3, 4, 96, 1, 1, 128, 77, 6, 0]);
    assert_eq!(found, argument);
    let text = launch().unwrap_err().to_string();
    assert!(text.contains("cuLaunchKernel failed on GPU 0: CUDA_ERROR_ILLEGAL_ADDRESS (700), an illegal"), "{text}");
    drop((module, stream, device));
    assert_eq!((stub.number("stub_held"), stub.number("stub_depth")), (0, 0));
}

#[test]
fn the_report_has_every_library_or_a_reason() {
    let found = admiral_gpu::found::find_all(&crate::support::search());
    let library =
        |expected| found.libraries.iter().find(|(other, _)| *other == expected).map(|(_, found)| found).unwrap();
    let nvrtc = library(Library::Nvrtc).as_ref().expect("`ci/setup test` installs NVRTC");
    assert!(nvrtc.path.contains("nvrtc") && nvrtc.version.contains('.'), "{nvrtc:?}");
    match library(Library::Driver) {
        Ok(driver) => assert!(driver.version.contains('.'), "{driver:?}"),
        Err(reason) => {
            assert!(reason.contains("CUDA driver") || reason.contains("cuInit"), "{reason}");
            assert!(found.devices.is_empty() && found.to_string().contains("no GPU"));
        }
    }
}
