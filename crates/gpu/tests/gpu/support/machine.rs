//! The machine that runs the kernels of a test: the CPU or a GPU. The same test body runs on both.

use std::sync::Arc;

use admiral_gpu::cache::KernelCache;
use admiral_gpu::driver::{Device, DeviceMemory, Driver, StreamHandle};
use admiral_gpu::kernels::Kernels;
use admiral_gpu::{DevicePointer, Kind, Launch};

use super::emulator::Emulator;
use super::numbers::{from_bytes, to_bytes};

/// A machine that runs kernels.
pub enum Machine {
    Host(Emulator),
    Gpu(Box<Kernels>, tempfile::TempDir),
}

/// The number of guard bytes before and after the memory that a kernel may access.
const GUARD: usize = 256;
/// The value of the guard bytes.
const PATTERN: u8 = 0xa5;

/// Memory of a machine: guard bytes, values, guard bytes.
pub struct Memory {
    kind: Kind,
    length: usize,
    bytes: Bytes,
    offset: usize,
}

enum Bytes {
    Host(Vec<u128>),
    Gpu(DeviceMemory),
}

impl Machine {
    /// Returns the CPU. `order` selects the order in which threads and blocks run.
    pub fn host(order: u32) -> Self {
        Self::Host(Emulator::new(order))
    }

    /// Returns the first GPU, or `None` if there is none. The test fails instead if `ADMIRAL_REQUIRE_GPU` is set.
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

    /// Returns a launcher of kernels.
    pub fn launcher(&self) -> Box<dyn Launch + '_> {
        match self {
            Self::Host(emulator) => Box::new(emulator),
            // SAFETY: the default stream always exists.
            Self::Gpu(kernels, _) => Box::new(unsafe { kernels.on(StreamHandle::DEFAULT) }),
        }
    }

    /// Allocates memory with these values.
    pub fn put(&self, kind: Kind, values: &[f64]) -> Memory {
        self.put_at(kind, values, 0)
    }

    /// Allocates memory with these values, at an offset of `elements` from a multiple of 256.
    pub fn put_at(&self, kind: Kind, values: &[f64], elements: usize) -> Memory {
        let mut bytes = vec![PATTERN; GUARD];
        let offset = GUARD + elements * kind.bytes();
        bytes.resize(offset, PATTERN);
        bytes.extend(to_bytes(kind, values));
        bytes.resize(bytes.len() + GUARD, PATTERN);
        let bytes = match self {
            Self::Host(_) => {
                let words = bytes.len().div_ceil(16);
                bytes.resize(words * 16, PATTERN);
                let load = |chunk: &[u8]| u128::from_le_bytes(chunk.try_into().unwrap());
                Bytes::Host(bytes.chunks_exact(16).map(load).collect())
            }
            Self::Gpu(kernels, _) => Bytes::Gpu(DeviceMemory::from_bytes(kernels.device(), &bytes).unwrap()),
        };
        Memory { kind, length: values.len(), bytes, offset }
    }

    /// Allocates memory full of NaN, which a kernel must overwrite.
    pub fn poisoned(&self, kind: Kind, length: usize) -> Memory {
        self.put(kind, &vec![f64::NAN; length])
    }
}

impl Memory {
    /// Returns the address of the first value.
    pub fn address(&self) -> DevicePointer {
        let base = match &self.bytes {
            Bytes::Host(words) => words.as_ptr() as u64,
            Bytes::Gpu(memory) => memory.address(),
        };
        base + self.offset as u64
    }

    /// Returns the bytes of the values. Panics if a guard byte was overwritten.
    pub fn bytes(&self) -> Vec<u8> {
        let all = match &self.bytes {
            // Kernels write through the address, so the compiler must not assume the content.
            Bytes::Host(words) => (0..words.len())
                // SAFETY: the element belongs to the vector.
                .flat_map(|i| unsafe { std::ptr::read_volatile(&words[i]) }.to_le_bytes())
                .collect(),
            Bytes::Gpu(memory) => memory.read().unwrap(),
        };
        let end = self.offset + self.length * self.kind.bytes();
        let guards = all[..self.offset].iter().chain(&all[end..]);
        assert!(guards.copied().all(|byte| byte == PATTERN), "a kernel wrote outside its memory");
        all[self.offset..end].to_vec()
    }

    /// Returns the values.
    pub fn values(&self) -> Vec<f64> {
        from_bytes(self.kind, &self.bytes())
    }
}

impl Launch for &Emulator {
    unsafe fn launch(
        &self,
        program: &admiral_gpu::Program,
        kernel: &'static str,
        shape: &admiral_gpu::Shape,
        arguments: *const std::ffi::c_void,
        size: usize,
    ) -> Result<(), admiral_gpu::Error> {
        // SAFETY: the caller's guarantees are passed on.
        unsafe { (**self).launch(program, kernel, shape, arguments, size) }
    }
}
