//! The choice of kernels for fused operations on a device: Admiral's own or libtorch's operations.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use tch::{Device, Kind};

use super::bridge;
use super::launcher::GpuLauncher;
use crate::gpus::Gpus;

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

/// The kernels that run fused operations on one device. Tensors on another device are computed by libtorch's operations.
/// Clones share compiled kernels.
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
    /// Admiral's own kernels for `device`, or libtorch's operations if there are none. A GPU's kernels are compiled once
    /// to find out.
    #[must_use]
    pub fn open(device: Device, gpus: &Gpus) -> Self {
        let backend = match device {
            Device::Cpu => Ok(Backend::Cpu),
            Device::Cuda(ordinal) => {
                GpuLauncher::start(ordinal, gpus).map(|launcher| Backend::Gpu(Arc::new(launcher)))
            }
            _ => Err(format!("there are no kernels for {device:?}")),
        };
        Self::with(device, backend)
    }

    /// Admiral's own kernels for the CPU.
    #[must_use]
    pub fn cpu() -> Self {
        Self::with(Device::Cpu, Ok(Backend::Cpu))
    }

    /// libtorch's operations on `device`, for comparison: `run.fused_kernels: off`.
    #[must_use]
    pub fn libtorch(device: Device) -> Self {
        Self::with(device, Err("run.fused_kernels is off".into()))
    }

    fn with(device: Device, backend: Result<Backend, String>) -> Self {
        Self(Arc::new(Inner { device, backend, has_warned: AtomicBool::new(false) }))
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> Device {
        self.0.device
    }

    /// Which kernels run, and if they are libtorch's, why.
    #[must_use]
    pub fn choice(&self) -> KernelChoice {
        match &self.0.backend {
            Ok(Backend::Cpu) => KernelChoice::Own { compiled_for: bridge::instruction_set().to_owned() },
            Ok(Backend::Gpu(launcher)) => KernelChoice::Own { compiled_for: launcher.compiled_for().to_owned() },
            Err(because) => KernelChoice::Libtorch { because: because.clone() },
        }
    }

    /// Whether a network of this kind is faster with feature maps in channels-last layout: on the CPU; on a GPU if tensor
    /// cores prefer it, and all operations take it without a copy.
    #[must_use]
    pub fn prefer_channels_last(&self, kind: Kind) -> bool {
        match self.0.device {
            Device::Cpu => true,
            // libtorch's own group normalization would copy every map to another layout.
            device => matches!(kind, Kind::Half | Kind::BFloat16) && self.gpu(device).is_some(),
        }
    }

    /// Whether tensors on `device` are computed by the CPU kernels.
    pub(super) fn is_cpu(&self, device: Device) -> bool {
        device == Device::Cpu && matches!(self.0.backend, Ok(Backend::Cpu))
    }

    /// The launcher for tensors on `device`; `None` if libtorch's operations compute them.
    pub(super) fn gpu(&self, device: Device) -> Option<&Arc<GpuLauncher>> {
        match (&self.0.backend, device) {
            // Kernels run on the default stream. Work on another stream would not wait for them.
            (Ok(Backend::Gpu(launcher)), Device::Cuda(ordinal))
                if device == self.0.device && bridge::current_stream(ordinal).is_ok_and(|stream| stream == 0) =>
            {
                Some(launcher)
            }
            _ => None,
        }
    }

    /// Whether this is the first warning about a kernel that failed; later ones are not logged.
    pub(super) fn is_first_warning(&self) -> bool {
        !self.0.has_warned.swap(true, Ordering::Relaxed)
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
        let KernelChoice::Own { compiled_for } = Kernels::cpu().choice() else { panic!("no kernels") };
        assert_eq!(compiled_for, bridge::instruction_set());
        assert!(Kernels::cpu().is_cpu(Device::Cpu) && !Kernels::libtorch(Device::Cpu).is_cpu(Device::Cpu));
        let gpus = Gpus::new(&admiral_gpu::GpuEnvironment::default());
        assert!(matches!(Kernels::open(Device::Cuda(10_000), &gpus).choice(), KernelChoice::Libtorch { .. }));
    }
}
