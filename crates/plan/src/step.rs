//! The time of one training step.

use admiral_contract::BatchDivision;
use serde::Serialize;

use crate::all_reduce::AllReduce;
use crate::hardware::Hardware;
use crate::memory::Weights;

/// The cost of forward and backward in forward passes: backward costs two (the paper's appendix A.1).
const PASSES: f64 = 3.0;
/// The fraction of the compute that is backward.
const BACKWARD: f64 = 2.0 / 3.0;

/// The work of a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Work {
    /// The FLOPs of the forward pass for one image.
    pub forward_flops: u64,
    /// The parameters.
    pub weights: Weights,
    /// The bytes of the gradients as they are sent between GPUs.
    pub wire_bytes: u64,
    /// The bytes of a bucket, which is sent as a whole.
    pub bucket_bytes: u64,
    /// Whether backward recomputes activations, which costs a fourth forward pass.
    pub recomputes: bool,
    /// Whether the all-reduce overlaps with backward.
    pub overlaps: bool,
}

/// Returns the command line option that sets the microbatch of a division.
#[must_use]
pub fn microbatch_option(batch: &BatchDivision) -> String {
    format!("--set training.microbatch={}", batch.microbatch)
}

/// The compute rate of one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rate {
    /// A fraction of the peak FLOP per second (model FLOP utilization).
    Mfu(f64),
    /// The images per second of a single GPU including the optimizer, as `admiral bench step` prints them.
    Measured(f64),
}

/// The time of a step by part.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepTime {
    /// The forward and backward passes of all microbatches.
    pub compute_seconds: f64,
    /// The norms, Adam, the averages and the half-precision copy; 0 if a measured rate includes them.
    pub optimizer_seconds: f64,
    /// The all-reduce of the gradients.
    pub all_reduce: AllReduce,
    /// The part of the all-reduce that overlaps with the backward pass of the last microbatch.
    pub hidden_seconds: f64,
    /// The part of the all-reduce that the step waits for.
    pub exposed_seconds: f64,
    /// The whole step.
    pub seconds: f64,
}

/// Estimates the time of a step.
///
/// Buckets are reduced during the backward pass of the last microbatch. The last bucket is complete only when backward
/// has finished, so its share of the all-reduce never overlaps.
#[must_use]
pub fn step_time(hardware: &Hardware, work: &Work, batch: &BatchDivision, rate: Rate) -> StepTime {
    let images = (batch.microbatch * batch.accumulation) as f64;
    let (compute_seconds, optimizer_seconds) = match rate {
        Rate::Mfu(mfu) => (
            images * (PASSES + f64::from(u8::from(work.recomputes))) * work.forward_flops as f64
                / (mfu * hardware.peak_flops(work.weights.half)),
            work.weights.optimizer_traffic() as f64 / hardware.memory_bandwidth,
        ),
        Rate::Measured(images_per_second) => (images / images_per_second, 0.0),
    };
    let num_buckets = work.wire_bytes.div_ceil(work.bucket_bytes).max(1);
    let all_reduce = AllReduce::new(hardware, batch.world_size, work.wire_bytes, num_buckets);
    let reduce_seconds = all_reduce.seconds();
    let window = if work.overlaps { BACKWARD * compute_seconds / batch.accumulation as f64 } else { 0.0 };
    let hidden_seconds = window.min(reduce_seconds - reduce_seconds / num_buckets as f64);
    let exposed_seconds = reduce_seconds - hidden_seconds;
    let seconds = compute_seconds + optimizer_seconds + exposed_seconds;
    StepTime { compute_seconds, optimizer_seconds, all_reduce, hidden_seconds, exposed_seconds, seconds }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::hardware::GpuKind;
    use crate::memory::tests::weights;

    pub(crate) fn work() -> Work {
        Work {
            forward_flops: 220_000_000_000,
            weights: weights(true),
            wire_bytes: 1_200_000_000,
            bucket_bytes: 128 << 20,
            recomputes: false,
            overlaps: true,
        }
    }

    /// 2048 samples in microbatches of at most 64, divided as in training.
    fn batch(world: u64) -> BatchDivision {
        let share = 2048 / world;
        let microbatch = share.min(64);
        BatchDivision { world_size: world, global_batch: 2048, microbatch, accumulation: share / microbatch }
    }

    #[test]
    fn compute_time_is_three_forward_passes_at_the_given_rate() {
        let hardware = GpuKind::V100.hardware();
        let time = step_time(&hardware, &work(), &batch(32), Rate::Mfu(0.5));
        assert!((time.compute_seconds - 64.0 * 3.0 * 220e9 / (0.5 * 120e12)).abs() < 1e-9);
        let measured = step_time(&hardware, &work(), &batch(32), Rate::Measured(32.0));
        assert_eq!((measured.compute_seconds, measured.optimizer_seconds), (2.0, 0.0));
    }

    #[test]
    fn only_the_last_bucket_is_exposed_when_backward_is_long() {
        let time = step_time(&GpuKind::V100.hardware(), &work(), &batch(32), Rate::Mfu(0.38));
        let buckets = 1_200_000_000_u64.div_ceil(128 << 20) as f64;
        assert!((time.exposed_seconds * buckets / time.all_reduce.seconds() - 1.0).abs() < 1e-9);
        assert!((time.exposed_seconds + time.hidden_seconds - time.all_reduce.seconds()).abs() < 1e-12);
    }

    #[test]
    fn accumulation_leaves_less_time_to_overlap() {
        let mut hardware = GpuKind::V100.hardware();
        hardware.network.bytes_per_second = 1e9;
        let one = BatchDivision { world_size: 16, global_batch: 1024, microbatch: 64, accumulation: 1 };
        let four = BatchDivision { microbatch: 16, accumulation: 4, ..one };
        let exposed = |batch: &BatchDivision| step_time(&hardware, &work(), batch, Rate::Mfu(0.38)).exposed_seconds;
        assert!(exposed(&four) > exposed(&one));
    }

    #[test]
    fn over_an_ideal_network_more_gpus_are_never_slower() {
        for kind in [GpuKind::V100, GpuKind::A100, GpuKind::H100, GpuKind::H200] {
            let mut hardware = kind.hardware();
            for link in [&mut hardware.nvlink, &mut hardware.network] {
                link.bytes_per_second = f64::INFINITY;
                link.latency_seconds = 0.0;
            }
            let seconds: Vec<f64> = (0..10)
                .map(|power| step_time(&hardware, &work(), &batch(1 << power), Rate::Mfu(0.3)).seconds)
                .collect();
            assert!(seconds.is_sorted_by(|few, many| few >= many), "{seconds:?}");
        }
    }

    #[test]
    fn all_reduce_is_hidden_only_with_overlap_also_on_cpus() {
        let step = |overlaps| {
            let work = Work { overlaps, ..work() };
            step_time(&GpuKind::Cpu.hardware(), &work, &batch(16), Rate::Measured(2.0))
        };
        assert!(step(true).hidden_seconds > 0.0);
        assert_eq!(step(false).hidden_seconds, 0.0);
        assert_eq!(step(false).exposed_seconds, step(false).all_reduce.seconds());
    }
}
