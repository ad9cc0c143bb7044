//! The kernels for fused operations on a device: our own, or libtorch's operations.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use tch::{Device, Kind};

use super::bridge;
use super::launcher::GpuLauncher;
use crate::gpus::Gpus;

/// The implementation of fused operations on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kernels", rename_all = "snake_case")]
pub enum KernelChoice {
    /// Our own kernels.
    Own {
        /// The instruction set or GPU architecture that the kernels are compiled for.
        compiled_for: String,
    },
    /// libtorch's operations.
    Libtorch {
        /// The reason, as the end of a sentence.
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

/// The kernels for fused operations on one device. Tensors on other devices use libtorch's operations. Clones share
/// compiled kernels.
#[derive(Clone)]
pub struct Kernels(Arc<Inner>);

struct Inner {
    device: Device,
    backend: Result<Backend, String>,
    has_warned: AtomicBool,
}

enum Backend {
    Cpu,
    Gpu(Arc<GpuLauncher>),
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernels").field("device", &self.0.device).field("choice", &self.choice()).finish()
    }
}

impl Kernels {
    /// Returns our own kernels for `device`, or libtorch's operations if there are none. On a GPU this compiles one
    /// kernel as a test.
    #[must_use]
    pub fn open(device: Device, gpus: &Gpus) -> Self {
        let backend = match device {
            Device::Cpu => Ok(Backend::Cpu),
            Device::Cuda(ordinal) => GpuLauncher::start(ordinal, gpus).map(|launcher| Backend::Gpu(Arc::new(launcher))),
            _ => Err(format!("there are no kernels for {device:?}")),
        };
        Self::with(device, backend)
    }

    /// Returns our own kernels for the CPU.
    #[must_use]
    pub fn cpu() -> Self {
        Self::with(Device::Cpu, Ok(Backend::Cpu))
    }

    /// Returns libtorch's operations on `device`, for `run.fused_kernels: off`.
    #[must_use]
    pub fn libtorch(device: Device) -> Self {
        Self::with(device, Err("run.fused_kernels is off".into()))
    }

    fn with(device: Device, backend: Result<Backend, String>) -> Self {
        Self(Arc::new(Inner { device, backend, has_warned: AtomicBool::new(false) }))
    }

    /// Returns the device.
    #[must_use]
    pub fn device(&self) -> Device {
        self.0.device
    }

    /// Returns the implementation, with the reason if it is libtorch's.
    #[must_use]
    pub fn choice(&self) -> KernelChoice {
        match &self.0.backend {
            Ok(Backend::Cpu) => KernelChoice::Own { compiled_for: bridge::instruction_set().to_owned() },
            Ok(Backend::Gpu(launcher)) => KernelChoice::Own { compiled_for: launcher.compiled_for().to_owned() },
            Err(because) => KernelChoice::Libtorch { because: because.clone() },
        }
    }

    /// Whether a network of this kind is faster with feature maps in channels-last layout. This is the case on the CPU,
    /// and on a GPU in half precision, because tensor cores prefer it and our kernels accept it without a copy.
    #[must_use]
    pub fn prefer_channels_last(&self, kind: Kind) -> bool {
        match self.0.device {
            Device::Cpu => true,
            // libtorch's group normalization would copy each map to the contiguous layout.
            device => matches!(kind, Kind::Half | Kind::BFloat16) && self.gpu(device).is_some(),
        }
    }

    /// Whether tensors on `device` use the CPU kernels.
    pub(super) fn is_cpu(&self, device: Device) -> bool {
        device == Device::Cpu && matches!(self.0.backend, Ok(Backend::Cpu))
    }

    /// Returns the launcher for tensors on `device`, or `None` if they use libtorch's operations.
    pub(super) fn gpu(&self, device: Device) -> Option<&Arc<GpuLauncher>> {
        match (&self.0.backend, device) {
            // Kernels run on the default stream, and work on another stream does not wait for them.
            (Ok(Backend::Gpu(launcher)), Device::Cuda(ordinal))
                if device == self.0.device && bridge::current_stream(ordinal).is_ok_and(|stream| stream == 0) =>
            {
                Some(launcher)
            }
            _ => None,
        }
    }

    /// Whether this is the first call, so that a failed kernel is a warning only once.
    pub(super) fn is_first_warning(&self) -> bool {
        !self.0.has_warned.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_displays_the_kernels_or_the_reason() {
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
    fn the_cpu_has_kernels_and_a_missing_gpu_has_none() {
        let KernelChoice::Own { compiled_for } = Kernels::cpu().choice() else { panic!("no kernels") };
        assert_eq!(compiled_for, bridge::instruction_set());
        assert!(Kernels::cpu().is_cpu(Device::Cpu) && !Kernels::libtorch(Device::Cpu).is_cpu(Device::Cpu));
        let gpus = Gpus::new(&admiral_gpu::GpuEnvironment::default());
        assert!(matches!(Kernels::open(Device::Cuda(10_000), &gpus).choice(), KernelChoice::Libtorch { .. }));
    }
}
