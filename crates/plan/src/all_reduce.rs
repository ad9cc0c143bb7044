//! The time of an all-reduce over GPUs.

use serde::Serialize;

use crate::hardware::{GPUS_PER_NODE, Hardware};

/// An algorithm for all-reduce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// A ring over all GPUs: one round to reduce, one round to distribute the sum.
    Ring,
    /// Two trees over the hosts, and a chain within each host.
    Tree,
}

/// The time of an all-reduce over all GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AllReduce {
    /// The seconds with a ring.
    pub ring_seconds: f64,
    /// The seconds with a tree.
    pub tree_seconds: f64,
    /// The faster algorithm, which is used.
    pub algorithm: Algorithm,
}

impl AllReduce {
    /// Estimates the all-reduce of `bytes` in `num_messages` buckets over `world` GPUs, [`GPUS_PER_NODE`] on each host.
    ///
    /// With N GPUs on n hosts of g GPUs, S bytes, k buckets, and the bandwidth B and latency a of the slowest link:
    ///
    /// ```text
    /// ring: 2 (N-1)/N S/B + 2 k (N-1) a
    /// tree: 2 S/B + 2 k ((g-1) a_NVLink + ceil(log2 n) a_network)
    /// ```
    #[must_use]
    pub fn new(hardware: &Hardware, world: u64, bytes: u64, num_messages: u64) -> Self {
        let nodes = world.div_ceil(GPUS_PER_NODE);
        let local = world.min(GPUS_PER_NODE);
        let slowest = if nodes <= 1 {
            hardware.nvlink.bytes_per_second
        } else {
            hardware.nvlink.bytes_per_second.min(hardware.network.bytes_per_second)
        };
        let hop = if nodes <= 1 {
            hardware.nvlink.latency_seconds
        } else {
            hardware.nvlink.latency_seconds.max(hardware.network.latency_seconds)
        };
        let (ring_seconds, tree_seconds) = if world <= 1 {
            (0.0, 0.0)
        } else {
            let (rest, messages) = ((world - 1) as f64, num_messages as f64);
            let transfer = 2.0 * bytes as f64 / slowest;
            let up = (local - 1) as f64 * hardware.nvlink.latency_seconds
                + (nodes as f64).log2().ceil() * hardware.network.latency_seconds;
            (transfer * rest / world as f64 + 2.0 * messages * rest * hop, transfer + 2.0 * messages * up)
        };
        let algorithm = if ring_seconds <= tree_seconds { Algorithm::Ring } else { Algorithm::Tree };
        Self { ring_seconds, tree_seconds, algorithm }
    }

    /// Returns the seconds of the faster algorithm.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.ring_seconds.min(self.tree_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::GpuKind;

    #[test]
    fn one_gpu_needs_no_time() {
        assert_eq!(AllReduce::new(&GpuKind::V100.hardware(), 1, 1 << 30, 8).seconds(), 0.0);
    }

    #[test]
    fn a_ring_of_two_sends_each_byte_once() {
        let mut hardware = GpuKind::V100.hardware();
        hardware.nvlink.latency_seconds = 0.0;
        let sum = AllReduce::new(&hardware, 2, 1_000_000, 1);
        assert!((sum.ring_seconds * hardware.nvlink.bytes_per_second - 1e6).abs() < 1e-3);
        assert_eq!(sum.algorithm, Algorithm::Ring);
    }

    #[test]
    fn the_tree_is_faster_for_many_hosts_and_the_ring_for_many_bytes() {
        let hardware = GpuKind::H100.hardware();
        assert_eq!(AllReduce::new(&hardware, 512, 1 << 20, 1).algorithm, Algorithm::Tree);
        assert_eq!(AllReduce::new(&hardware, 16, 1 << 32, 1).algorithm, Algorithm::Ring);
    }

    #[test]
    fn the_network_is_the_bottleneck_between_hosts() {
        let hardware = GpuKind::V100.hardware();
        let mut faster = hardware;
        faster.network.bytes_per_second *= 2.0;
        let seconds = |hardware: &Hardware, world| AllReduce::new(hardware, world, 1 << 30, 8).seconds();
        assert_eq!(seconds(&hardware, 8), seconds(&faster, 8));
        assert!(seconds(&hardware, 16) > 1.5 * seconds(&faster, 16));
        assert!(seconds(&hardware, 16) > seconds(&hardware, 8));
    }
}
