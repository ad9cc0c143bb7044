//! The GPUs that can be planned for, with the numbers of their data sheets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The number of GPUs in one host, which NVLink connects.
pub const GPUS_PER_NODE: u64 = 8;

/// The fraction of a data sheet's bandwidth (of memory and links) that a long transfer reaches.
const BANDWIDTH_EFFICIENCY: f64 = 0.8;

const GB: f64 = 1e9;
const GIB: f64 = (1_u64 << 30) as f64;

/// The device that a run computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuKind {
    /// NVIDIA V100 SXM2, 32 GB, as in the paper.
    V100,
    /// NVIDIA A100 SXM4, 80 GB.
    A100,
    /// NVIDIA H100 SXM5, 80 GB.
    H100,
    /// NVIDIA H200 SXM5, 141 GB.
    H200,
    /// A CPU. Its speed is known only if it is measured.
    Cpu,
}

/// All kinds with their names.
const KINDS: [(GpuKind, &str); 5] = [
    (GpuKind::V100, "v100"),
    (GpuKind::A100, "a100"),
    (GpuKind::H100, "h100"),
    (GpuKind::H200, "h200"),
    (GpuKind::Cpu, "cpu"),
];

/// The error for an unknown name of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no plan for a GPU {0:?}; these are known: v100, a100, h100, h200, cpu")]
pub struct UnknownGpu(pub String);

impl FromStr for GpuKind {
    type Err = UnknownGpu;

    fn from_str(text: &str) -> Result<Self, UnknownGpu> {
        let found = KINDS.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        found.map(|(kind, _)| *kind).ok_or_else(|| UnknownGpu(text.to_owned()))
    }
}

impl fmt::Display for GpuKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(KINDS.iter().find(|(kind, _)| kind == self).map_or("", |(_, name)| name))
    }
}

impl GpuKind {
    /// Returns the kind of a device by the name that its driver reports, such as `Tesla V100-SXM2-32GB` or
    /// `NVIDIA H100 80GB HBM3`.
    #[must_use]
    pub fn of_device(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let words: Vec<&str> = name.split(|letter: char| !letter.is_ascii_alphanumeric()).collect();
        KINDS.iter().find(|(kind, known)| *kind != Self::Cpu && words.contains(known)).map(|(kind, _)| *kind)
    }

    /// Returns the device of one rank as a word, in the singular and the plural.
    #[must_use]
    pub fn units(self) -> (&'static str, &'static str) {
        if self == Self::Cpu { ("process", "processes") } else { ("GPU", "GPUs") }
    }

    /// Returns the numbers of this kind.
    #[must_use]
    pub fn hardware(self) -> Hardware {
        // Memory in GiB as libtorch sees it, half and float32 TFLOPS, the fraction of them that training reaches, and
        // the bandwidth in GB/s of memory, NVLink (one direction of a GPU) and network (one direction of a host).
        let gpu = |gib: f64, half: f64, float: f64, mfu: f64, memory: f64, nvlink: f64, network: f64| Hardware {
            kind: self,
            memory_bytes: Some((gib * GIB) as u64),
            half_flops: half * 1e12,
            float_flops: float * 1e12,
            mfu,
            memory_bandwidth: memory * GB * BANDWIDTH_EFFICIENCY,
            nvlink: Link { bytes_per_second: nvlink * GB * BANDWIDTH_EFFICIENCY, latency_seconds: 3e-6 },
            network: Link { bytes_per_second: network * GB * BANDWIDTH_EFFICIENCY, latency_seconds: 10e-6 },
        };
        match self {
            Self::V100 => gpu(31.75, 120.0, 15.7, 0.38, 900.0, 150.0, 50.0),
            Self::A100 => gpu(79.15, 312.0, 19.5, 0.35, 2039.0, 300.0, 200.0),
            Self::H100 => gpu(79.1, 989.0, 67.0, 0.25, 3350.0, 450.0, 400.0),
            Self::H200 => gpu(139.7, 989.0, 67.0, 0.25, 4800.0, 450.0, 400.0),
            Self::Cpu => Hardware {
                kind: self,
                memory_bytes: None,
                half_flops: f64::NAN,
                float_flops: f64::NAN,
                mfu: f64::NAN,
                memory_bandwidth: f64::NAN,
                nvlink: Link { bytes_per_second: 2.0 * GB, latency_seconds: 5e-6 },
                network: Link { bytes_per_second: 1.25 * GB * BANDWIDTH_EFFICIENCY, latency_seconds: 50e-6 },
            },
        }
    }
}

/// A link between GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Link {
    /// The bandwidth in one direction that a long transfer reaches, in bytes per second.
    pub bytes_per_second: f64,
    /// The latency of a message in seconds.
    pub latency_seconds: f64,
}

/// The numbers of a GPU and of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Hardware {
    /// The kind of GPU.
    pub kind: GpuKind,
    /// Its memory in bytes; `None` if it is unknown.
    pub memory_bytes: Option<u64>,
    /// The peak FLOP per second of matrix products in half precision.
    pub half_flops: f64,
    /// The peak FLOP per second in float32, without TF32, which Admiral turns off.
    pub float_flops: f64,
    /// The fraction of the peak that a step reaches (model FLOP utilization). A step counts as three forward passes, as
    /// in the paper.
    pub mfu: f64,
    /// The memory bandwidth that one long pass reaches, in bytes per second.
    pub memory_bandwidth: f64,
    /// The link between two GPUs of a host.
    pub nvlink: Link,
    /// The link between two hosts, with all network cards of a host together.
    pub network: Link,
}

impl Hardware {
    /// Returns the peak FLOP per second in half precision or float32.
    #[must_use]
    pub fn peak_flops(&self, half: bool) -> f64 {
        if half { self.half_flops } else { self.float_flops }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_unknown_names_are_refused() {
        for (kind, name) in KINDS {
            assert_eq!(name.parse(), Ok(kind));
            assert_eq!(kind.to_string(), name);
        }
        assert_eq!("H100".parse(), Ok(GpuKind::H100));
        assert_eq!("k80".parse::<GpuKind>(), Err(UnknownGpu("k80".into())));
    }

    #[test]
    fn devices_are_recognized_by_their_driver_names() {
        assert_eq!(GpuKind::of_device("Tesla V100-SXM2-32GB"), Some(GpuKind::V100));
        assert_eq!(GpuKind::of_device("NVIDIA H100 80GB HBM3"), Some(GpuKind::H100));
        assert_eq!(GpuKind::of_device("NVIDIA H200"), Some(GpuKind::H200));
        assert_eq!(GpuKind::of_device("NVIDIA A1000 Laptop GPU"), None);
        assert_eq!(GpuKind::of_device("cpu"), None);
    }
}
