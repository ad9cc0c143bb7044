//! The time of one training step.

use admiral_contract::BatchDivision;
use serde::Serialize;

use crate::all_reduce::AllReduce;
use crate::hardware::Hardware;
use crate::memory::Weights;

/// Forward and backward together, in forward passes: backward is twice forward (the paper's appendix A.1).
const PASSES: f64 = 3.0;
/// The part of them that is backward.
const BACKWARD: f64 = 2.0 / 3.0;

/// What a step has to do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Work {
    /// FLOPs of the forward pass of an image.
    pub forward_flops: u64,
    /// The parameters.
    pub weights: Weights,
    /// Bytes of gradients as they travel between GPUs.
    pub wire_bytes: u64,
    /// Bytes that travel at once.
    pub bucket_bytes: u64,
    /// Whether blocks are computed again in backward: a fourth pass.
    pub recomputes: bool,
    /// Whether sums travel while backward goes on.
    pub overlaps: bool,
}

/// The option with which a run takes the microbatch of a division.
#[must_use]
pub fn microbatch_option(batch: &BatchDivision) -> String {
    format!("--set training.microbatch={}", batch.microbatch)
}

/// How fast one GPU computes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rate {
    /// A part of the peak.
    Mfu(f64),
    /// Images a second of one GPU by itself, with the optimizer: what `admiral bench step` says.
    Measured(f64),
}

/// Where the seconds of a step go.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepTime {
    /// Forward and backward of all passes.
    pub compute_seconds: f64,
    /// Norms, Adam, averages and the half-precision copy; 0 where a measured rate holds them already.
    pub optimizer_seconds: f64,
    /// The sum of gradients.
    pub all_reduce: AllReduce,
    /// Of the sum, what hides behind the backward pass of the last microbatch.
    pub hidden_seconds: f64,
    /// Of the sum, what is waited for.
    pub exposed_seconds: f64,
    /// The step.
    pub seconds: f64,
}

/// The time of a step.
///
/// Buckets travel while the backward pass of the last microbatch goes on; the last bucket is full only when backward
/// is done, so that its share of the sum is always waited for.
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
    let sum = all_reduce.seconds();
    let window = if work.overlaps { BACKWARD * compute_seconds / batch.accumulation as f64 } else { 0.0 };
    let hidden_seconds = window.min(sum - sum / num_buckets as f64);
    let exposed_seconds = sum - hidden_seconds;
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

    /// 2048 samples, 96 at most on a GPU, as the trainer divides them.
    fn batch(world: u64) -> BatchDivision {
        let share = 2048 / world;
        let microbatch = share.min(64);
        BatchDivision { world_size: world, global_batch: 2048, microbatch, accumulation: share / microbatch }
    }

    #[test]
    fn compute_is_three_forward_passes_at_the_rate() {
        let hardware = GpuKind::V100.hardware();
        let time = step_time(&hardware, &work(), &batch(32), Rate::Mfu(0.5));
        assert!((time.compute_seconds - 64.0 * 3.0 * 220e9 / (0.5 * 120e12)).abs() < 1e-9);
        let measured = step_time(&hardware, &work(), &batch(32), Rate::Measured(32.0));
        assert_eq!((measured.compute_seconds, measured.optimizer_seconds), (2.0, 0.0));
    }

    #[test]
    fn the_last_bucket_is_always_waited_for_and_nothing_else_where_backward_is_long() {
        let time = step_time(&GpuKind::V100.hardware(), &work(), &batch(32), Rate::Mfu(0.38));
        let buckets = 1_200_000_000_u64.div_ceil(128 << 20) as f64;
        assert!((time.exposed_seconds * buckets / time.all_reduce.seconds() - 1.0).abs() < 1e-9);
        assert!((time.exposed_seconds + time.hidden_seconds - time.all_reduce.seconds()).abs() < 1e-12);
    }

    #[test]
    fn accumulation_leaves_less_to_hide_behind() {
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
    fn sums_after_backward_hide_nothing_and_a_processors_hide_as_a_gpus_do() {
        let step = |overlaps| {
            let work = Work { overlaps, ..work() };
            step_time(&GpuKind::Cpu.hardware(), &work, &batch(16), Rate::Measured(2.0))
        };
        assert!(step(true).hidden_seconds > 0.0);
        assert_eq!(step(false).hidden_seconds, 0.0);
        assert_eq!(step(false).exposed_seconds, step(false).all_reduce.seconds());
    }
}
