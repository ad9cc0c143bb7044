//! Where an operation's own kernel runs, and whether it may: a choice of the process, and kernels that a GPU's compiler
//! has shown to be able to compile.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use admiral_gpu::cache::KernelCache;
use admiral_gpu::driver::StreamHandle;
use admiral_gpu::kernels::Kernels;
use admiral_gpu::{Launch, Program, Shape};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::{Error, bridge};
use crate::cuda;

static IS_FUSED: AtomicBool = AtomicBool::new(true);

/// Chooses for the whole process whether fused operations run by Admiral's own kernels, as they do at first, or by
/// libtorch's operations, for comparison.
pub fn set_fused(fused: bool) {
    IS_FUSED.store(fused, Ordering::Relaxed);
}

/// What [`set_fused`] chose.
#[must_use]
pub fn is_fused() -> bool {
    IS_FUSED.load(Ordering::Relaxed)
}

/// Which kernels run fused operations on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kernels", rename_all = "snake_case")]
pub enum KernelChoice {
    /// Admiral's own.
    Own {
        /// What they are compiled for.
        compiled_for: String,
    },
    /// libtorch's operations in their place.
    Libtorch {
        /// Why.
        because: String,
    },
}

impl fmt::Display for KernelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own { compiled_for } => write!(f, "own kernels for {compiled_for}"),
            Self::Libtorch { because } => write!(f, "libtorch's operations, because {because}"),
        }
    }
}

/// Which kernels run on a device, as things stand. The first question about a GPU compiles one, to see whether that is
/// possible.
#[must_use]
pub fn kernel_choice(device: Device) -> KernelChoice {
    let own = match device {
        _ if !is_fused() => Err("run.fused_kernels is off".to_owned()),
        Device::Cpu => Ok(bridge::instruction_set().to_owned()),
        Device::Cuda(_) => Machine::of(device).map(|machine| machine.compiled_for.clone()),
        _ => Err(format!("there are no kernels for {device:?}")),
    };
    match own {
        Ok(compiled_for) => KernelChoice::Own { compiled_for },
        Err(because) => KernelChoice::Libtorch { because },
    }
}

/// Whether a network of this kind is faster where feature maps lie channels-last: on the CPU; on a GPU where tensor cores
/// want it, and all operations take it as it comes.
#[must_use]
pub fn likes_channels_last(kind: Kind, device: Device) -> bool {
    match device {
        Device::Cpu => true,
        // libtorch's own group normalization would lay every map out anew.
        Device::Cuda(_) => matches!(kind, Kind::Half | Kind::BFloat16) && Machine::of(device).is_ok(),
        _ => false,
    }
}

/// What launches kernels on a device's default stream, which is the one that training computes on.
pub(super) struct Machine {
    launch: Box<dyn Launch + Send + Sync>,
    compiled_for: String,
}

struct OnDefaultStream(Kernels);

impl Launch for OnDefaultStream {
    unsafe fn launch(
        &self,
        program: &Program,
        kernel: &'static str,
        shape: &Shape,
        arguments: *const c_void,
        size: usize,
    ) -> Result<(), admiral_gpu::Error> {
        // SAFETY: the default stream is always there; the rest is passed on as it came.
        unsafe { self.0.on(StreamHandle::DEFAULT).launch(program, kernel, shape, arguments, size) }
    }
}

impl Machine {
    #[cfg(test)]
    pub(super) fn new(launch: impl Launch + Send + Sync + 'static) -> Self {
        Self { launch: Box::new(launch), compiled_for: "a test".into() }
    }

    /// That of a device for as long as the process lives, or why operations there are libtorch's.
    pub(super) fn of(device: Device) -> Result<&'static Self, String> {
        type Known = HashMap<usize, &'static Result<Machine, String>>;
        static KNOWN: OnceLock<Mutex<Known>> = OnceLock::new();
        let Device::Cuda(ordinal) = device else { return Err(format!("{device:?} is no GPU")) };
        if !is_fused() {
            return Err("run.fused_kernels is off".into());
        }
        // Kernels go to the default stream: work of another one would not wait for them.
        if bridge::current_stream(ordinal).map_err(|error| error.to_string())? != 0 {
            return Err("libtorch computes on another stream than the default one".into());
        }
        let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(ordinal).or_insert_with(|| Box::leak(Box::new(Self::start(ordinal)))).as_ref().map_err(Clone::clone)
    }

    fn start(ordinal: usize) -> Result<Self, String> {
        let device = cuda::device(ordinal)?;
        let start = || -> Result<Self, admiral_gpu::Error> {
            let compiled_for = device.architecture()?.to_string();
            let kernels = Kernels::new(&device, cuda::search(), KernelCache::from_environment())?;
            // The smallest one: what compiles it for this device compiles all.
            kernels.prepare(&Program::Norms { kind: admiral_gpu::Kind::Float })?;
            Ok(Self { launch: Box::new(OnDefaultStream(kernels)), compiled_for })
        };
        start().map_err(|error| error.to_string())
    }

    /// What launches.
    pub(super) fn launch(&self) -> &dyn Launch {
        &*self.launch
    }
}

/// The kernels' name of a kind; none where they do not take it.
pub(super) fn gpu_kind(kind: Kind) -> Option<admiral_gpu::Kind> {
    match kind {
        Kind::Float => Some(admiral_gpu::Kind::Float),
        Kind::Half => Some(admiral_gpu::Kind::Half),
        Kind::BFloat16 => Some(admiral_gpu::Kind::BFloat16),
        _ => None,
    }
}

/// Where a tensor's values begin.
pub(super) fn address(tensor: &Tensor) -> admiral_gpu::DevicePointer {
    tensor.data_ptr() as admiral_gpu::DevicePointer
}

impl From<admiral_gpu::Error> for Error {
    fn from(error: admiral_gpu::Error) -> Self {
        Self::Gpu(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_says_what_or_why() {
        let own = KernelChoice::Own { compiled_for: "sm_90".into() };
        assert_eq!(own.to_string(), "own kernels for sm_90");
        let torch = KernelChoice::Libtorch { because: "NVRTC was not found".into() };
        assert_eq!(torch.to_string(), "libtorch's operations, because NVRTC was not found");
        assert_eq!(
            serde_json::to_value(&torch).ok(),
            Some(serde_json::json!({"kernels": "libtorch", "because": "NVRTC was not found"}))
        );
    }

    #[test]
    fn a_processor_has_kernels_and_a_gpu_that_is_not_there_has_not() {
        let KernelChoice::Own { compiled_for } = kernel_choice(Device::Cpu) else { panic!("no kernels") };
        assert_eq!(compiled_for, bridge::instruction_set());
        assert!(Machine::of(Device::Cpu).is_err());
        assert!(matches!(kernel_choice(Device::Cuda(10_000)), KernelChoice::Libtorch { .. }));
    }
}
