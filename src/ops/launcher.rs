//! Launches our own kernels on a GPU.

use std::ffi::c_void;

use admiral_gpu::cache::KernelCache;
use admiral_gpu::driver::StreamHandle;
use admiral_gpu::kernels::Kernels;
use admiral_gpu::{Launch, Program, Shape};
use tch::{Kind, Tensor};

use crate::gpus::Gpus;

/// Launches kernels on the default stream of a GPU, which libtorch uses too.
pub(super) struct GpuLauncher {
    launch: Box<dyn Launch + Send + Sync>,
    compiled_for: String,
}

struct DefaultStreamLaunch(Kernels);

impl Launch for DefaultStreamLaunch {
    unsafe fn launch(
        &self,
        program: &Program,
        kernel: &'static str,
        shape: &Shape,
        arguments: *const c_void,
        size: usize,
    ) -> Result<(), admiral_gpu::Error> {
        // SAFETY: the default stream always exists. The caller guarantees the rest.
        unsafe { self.0.on(StreamHandle::DEFAULT).launch(program, kernel, shape, arguments, size) }
    }
}

impl GpuLauncher {
    #[cfg(test)]
    pub(super) fn new(launch: impl Launch + Send + Sync + 'static) -> Self {
        Self { launch: Box::new(launch), compiled_for: "a test".into() }
    }

    /// Prepares kernels for the GPU `ordinal`. Compiles the smallest kernel to check that compilation works.
    ///
    /// # Errors
    /// If kernels cannot be compiled or launched on the GPU. The error is the reason.
    pub(super) fn start(ordinal: usize, gpus: &Gpus) -> Result<Self, String> {
        let device = gpus.device(ordinal)?;
        let start = || -> Result<Self, admiral_gpu::Error> {
            let compiled_for = device.architecture()?.to_string();
            let kernels = Kernels::new(&device, gpus.search().clone(), KernelCache::new(gpus.kernel_cache()))?;
            // If this kernel compiles, all kernels do.
            kernels.prepare(&Program::Norms { kind: admiral_gpu::Kind::Float })?;
            Ok(Self { launch: Box::new(DefaultStreamLaunch(kernels)), compiled_for })
        };
        start().map_err(|error| error.to_string())
    }

    /// Returns the interface that launches kernels.
    pub(super) fn launch(&self) -> &dyn Launch {
        &*self.launch
    }

    /// Returns the GPU architecture that the kernels are compiled for.
    pub(super) fn compiled_for(&self) -> &str {
        &self.compiled_for
    }
}

/// Returns the kind in the kernels' terms, or `None` if they do not support it.
pub(super) fn gpu_kind(kind: Kind) -> Option<admiral_gpu::Kind> {
    match kind {
        Kind::Float => Some(admiral_gpu::Kind::Float),
        Kind::Half => Some(admiral_gpu::Kind::Half),
        Kind::BFloat16 => Some(admiral_gpu::Kind::BFloat16),
        _ => None,
    }
}

/// Returns the address of a tensor's first value.
pub(super) fn address(tensor: &Tensor) -> admiral_gpu::DevicePointer {
    tensor.data_ptr() as admiral_gpu::DevicePointer
}
