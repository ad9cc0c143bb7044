//! The hardware for which a configuration is proposed or checked.

use admiral_plan::{GpuKind, Hardware, UnknownGpu};
use clap::Args;

use crate::host_gpus::HostGpus;

/// The GPUs or processes of a run.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct HardwareOptions {
    /// Number of GPUs, or of processes with --gpu cpu, one rank each [default: those of this machine; if only --gpu is given,
    /// 8, or 1 for cpu]
    #[arg(long)]
    gpus: Option<u64>,
    /// v100 (32 GB), a100 (80 GB), h100, h200, or cpu [default: the GPUs of this machine, cpu if it has none]
    #[arg(long)]
    gpu: Option<String>,
    /// GiB of memory of a GPU, if it differs from the default of its kind
    #[arg(long, allow_negative_numbers = true)]
    gpu_memory_gib: Option<f64>,
}

/// The hardware of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Target {
    /// A GPU, or a CPU.
    pub(super) hardware: Hardware,
    /// The number of ranks.
    pub(super) ranks: u64,
    /// Whether the run is known to be on this machine.
    pub(super) is_here: bool,
}

/// Why the hardware is unknown.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum HardwareError {
    /// The kind of GPU has no plan.
    #[error(transparent)]
    Kind(#[from] UnknownGpu),
    /// This machine has a GPU of another kind.
    #[error(
        "there is no plan for this machine's GPU {0}; name the most similar kind and its memory, for example --gpus 1 --gpu \
         a100 --gpu-memory-gib 24, or --gpu cpu"
    )]
    Unlisted(String),
    /// An option has an invalid value.
    #[error("{0}")]
    Option(String),
}

/// Returns the number of threads that this machine runs at once.
pub(super) fn all_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The most ranks for which a configuration is proposed or checked.
const MAX_RANKS: u64 = 65_536;

/// The ranks where only the kind of GPU is given: those of a host.
const GPUS_OF_A_HOST: u64 = admiral_plan::GPUS_PER_NODE;

impl HardwareOptions {
    /// Returns the hardware that the options name, and otherwise that of this machine.
    ///
    /// # Errors
    /// If an option is invalid, or nothing names the kind of this machine's GPUs.
    pub(super) fn target(&self) -> Result<Target, HardwareError> {
        self.target_on(&HostGpus::of_this_host())
    }

    /// Returns whether the options say nothing about the hardware.
    pub(super) fn are_empty(&self) -> bool {
        self.gpus.is_none() && self.gpu.is_none() && self.gpu_memory_gib.is_none()
    }

    /// Returns the hardware as arguments of another command.
    pub(super) fn arguments(&self, target: &Target) -> String {
        let memory = self.gpu_memory_gib.map_or_else(String::new, |gib| format!(" --gpu-memory-gib {gib}"));
        format!("--gpus {} --gpu {}{memory}", target.ranks, target.hardware.kind)
    }

    fn target_on(&self, host: &HostGpus) -> Result<Target, HardwareError> {
        let refuse = |message: String| Err(HardwareError::Option(message));
        if let Some(gpus) = self.gpus.filter(|gpus| !(1..=MAX_RANKS).contains(gpus)) {
            return refuse(format!("--gpus is {gpus}; it must be from 1 to {MAX_RANKS}"));
        }
        let (kind, ranks, is_here) = match (&self.gpu, host) {
            (Some(name), _) => {
                let kind: GpuKind = name.parse()?;
                (kind, if kind == GpuKind::Cpu { 1 } else { GPUS_OF_A_HOST }, kind == GpuKind::Cpu)
            }
            (None, HostGpus::Known { kind, number }) => (*kind, *number, true),
            (None, HostGpus::None) if self.gpus.is_none() => (GpuKind::Cpu, 1, true),
            (None, HostGpus::None) => return refuse("--gpus needs --gpu: this machine has no GPU".into()),
            (None, HostGpus::Unknown { model }) => return Err(HardwareError::Unlisted(model.clone())),
        };
        let mut hardware = kind.hardware();
        if let Some(gib) = self.gpu_memory_gib {
            if !(gib > 0.0 && gib.is_finite()) {
                return refuse(format!("--gpu-memory-gib is {gib}; it must be positive"));
            }
            hardware.memory_bytes = Some((gib * (1_u64 << 30) as f64) as u64);
        }
        Ok(Target { hardware, ranks: self.gpus.unwrap_or(ranks), is_here })
    }
}

impl Target {
    /// Whether the run computes on a GPU.
    pub(super) fn is_gpu(&self) -> bool {
        self.hardware.kind != GpuKind::Cpu
    }
}

impl std::fmt::Display for Target {
    /// Writes `8 v100 GPUs`, or `1 process on a CPU`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.hardware.kind;
        let (one, many) = kind.units();
        let unit = if self.ranks == 1 { one } else { many };
        match kind {
            GpuKind::Cpu => write!(formatter, "{} {unit} on a CPU", self.ranks),
            _ => write!(formatter, "{} {kind} {unit}", self.ranks),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn options(gpus: Option<u64>, gpu: Option<&str>) -> HardwareOptions {
        HardwareOptions { gpus, gpu: gpu.map(str::to_owned), gpu_memory_gib: None }
    }

    #[test]
    fn options_come_before_this_machine() {
        let eight = HostGpus::Known { kind: GpuKind::H100, number: 8 };
        let found = |gpus, gpu, host: &HostGpus| {
            let target = options(gpus, gpu).target_on(host).unwrap();
            (target.hardware.kind, target.ranks, target.is_here)
        };
        assert_eq!(found(None, None, &eight), (GpuKind::H100, 8, true));
        assert_eq!(found(Some(2), None, &eight), (GpuKind::H100, 2, true));
        assert_eq!(found(None, Some("v100"), &eight), (GpuKind::V100, 8, false));
        assert_eq!(found(None, Some("cpu"), &eight), (GpuKind::Cpu, 1, true));
        assert_eq!(found(None, None, &HostGpus::None), (GpuKind::Cpu, 1, true));
        let small = HardwareOptions { gpu_memory_gib: Some(24.0), ..options(Some(1), Some("a100")) };
        assert_eq!(small.target_on(&HostGpus::None).unwrap().hardware.memory_bytes, Some(24 << 30));
    }

    #[test]
    fn hardware_that_nothing_names_is_refused() {
        let unknown = HostGpus::Unknown { model: "RTX 3090".into() };
        let error = |options: HardwareOptions, host: &HostGpus| options.target_on(host).unwrap_err().to_string();
        assert!(error(options(None, None), &unknown).contains("GPU RTX 3090; name the most similar"));
        assert!(error(options(Some(2), None), &HostGpus::None).contains("--gpus needs --gpu"));
        assert!(error(options(Some(0), Some("v100")), &HostGpus::None).contains("--gpus is 0"));
        assert!(error(options(None, Some("k80")), &HostGpus::None).contains("v100, a100"));
        let negative = HardwareOptions { gpu_memory_gib: Some(-1.0), ..options(None, Some("v100")) };
        assert!(error(negative, &HostGpus::None).contains("--gpu-memory-gib is -1"));
    }
}
