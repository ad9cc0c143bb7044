//! Where kernels run in a test: on the CPU, or on a GPU. One test body serves both.

use std::sync::Arc;

use admiral_gpu::cache::KernelCache;
use admiral_gpu::driver::{Device, DeviceMemory, Driver, StreamHandle};
use admiral_gpu::kernels::Kernels;
use admiral_gpu::{DevicePointer, Kind, Launch};

use super::emulator::Emulator;
use super::numbers::{from_bytes, to_bytes};

pub enum Machine {
    Host(Emulator),
    Gpu(Box<Kernels>, tempfile::TempDir),
}

/// Bytes before and behind what a kernel may touch.
const GUARD: usize = 256;
const PATTERN: u8 = 0xa5;

/// Memory of the machine: guard, values, guard.
pub struct Memory {
    kind: Kind,
    length: usize,
    place: Place,
    offset: usize,
}

enum Place {
    Host(Vec<u128>),
    Gpu(DeviceMemory),
}

impl Machine {
    /// The CPU, with one order of its threads.
    pub fn host(order: u32) -> Self {
        Self::Host(Emulator::new(order))
    }

    /// The first GPU, where there is one. `ADMIRAL_REQUIRE_GPU` makes it a failure that there is none.
    pub fn gpu() -> Option<Self> {
        let found = Driver::load(&super::search()).and_then(|driver| Device::open(&driver, 0));
        let device: Arc<Device> = match found {
            Ok(device) => device,
            Err(error) => {
                assert!(std::env::var_os("ADMIRAL_REQUIRE_GPU").is_none(), "ADMIRAL_REQUIRE_GPU is set, but {error}");
                println!("no CUDA device, so this test is not run on one: {error}");
                return None;
            }
        };
        println!("on {} ({})", device.name().unwrap(), device.architecture().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(Some(folder.path().to_owned()));
        Some(Self::Gpu(Box::new(Kernels::new(&device, super::search(), cache).unwrap()), folder))
    }

    pub fn launcher(&self) -> Box<dyn Launch + '_> {
        match self {
            Self::Host(emulator) => Box::new(emulator),
            // SAFETY: the default stream is always there.
            Self::Gpu(kernels, _) => Box::new(unsafe { kernels.on(StreamHandle::DEFAULT) }),
        }
    }

    pub fn put(&self, kind: Kind, values: &[f64]) -> Memory {
        self.put_at(kind, values, 0)
    }

    /// Moved by some elements from where 256 divides the address.
    pub fn put_at(&self, kind: Kind, values: &[f64], elements: usize) -> Memory {
        let mut bytes = vec![PATTERN; GUARD];
        let offset = GUARD + elements * kind.bytes();
        bytes.resize(offset, PATTERN);
        bytes.extend(to_bytes(kind, values));
        bytes.resize(bytes.len() + GUARD, PATTERN);
        let place = match self {
            Self::Host(_) => {
                let words = bytes.len().div_ceil(16);
                bytes.resize(words * 16, PATTERN);
                let load = |chunk: &[u8]| u128::from_le_bytes(chunk.try_into().unwrap());
                Place::Host(bytes.chunks_exact(16).map(load).collect())
            }
            Self::Gpu(kernels, _) => Place::Gpu(DeviceMemory::holding(kernels.device(), &bytes).unwrap()),
        };
        Memory { kind, length: values.len(), place, offset }
    }

    /// What a kernel must overwrite: NaN.
    pub fn poisoned(&self, kind: Kind, length: usize) -> Memory {
        self.put(kind, &vec![f64::NAN; length])
    }
}

impl Memory {
    pub fn address(&self) -> DevicePointer {
        let base = match &self.place {
            Place::Host(words) => words.as_ptr() as u64,
            Place::Gpu(memory) => memory.address(),
        };
        base + self.offset as u64
    }

    /// The bytes, once it is sure that nothing around them was written.
    pub fn bytes(&self) -> Vec<u8> {
        let all = match &self.place {
            // Kernels write through the address: the compiler must not believe that it knows the content.
            Place::Host(words) => (0..words.len())
                // SAFETY: the place is one of the vector's.
                .flat_map(|i| unsafe { std::ptr::read_volatile(&words[i]) }.to_le_bytes())
                .collect(),
            Place::Gpu(memory) => memory.read().unwrap(),
        };
        let end = self.offset + self.length * self.kind.bytes();
        let guards = all[..self.offset].iter().chain(&all[end..]);
        assert!(guards.copied().all(|byte| byte == PATTERN), "a kernel wrote beside its memory");
        all[self.offset..end].to_vec()
    }

    pub fn values(&self) -> Vec<f64> {
        from_bytes(self.kind, &self.bytes())
    }
}

/// The emulator by reference is a launcher too.
impl Launch for &Emulator {
    unsafe fn launch(
        &self,
        program: &admiral_gpu::Program,
        kernel: &'static str,
        shape: &admiral_gpu::Shape,
        arguments: *const std::ffi::c_void,
        size: usize,
    ) -> Result<(), admiral_gpu::Error> {
        // SAFETY: passed on as it came.
        unsafe { (**self).launch(program, kernel, shape, arguments, size) }
    }
}
