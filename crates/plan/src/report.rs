//! The plan of a run: memory, time, storage and scaling.

use admiral_contract::BatchDivision;
use serde::Serialize;

use crate::hardware::{GPUS_PER_NODE, GpuKind, Hardware};
use crate::memory::{LayerMemory, Memory, MemoryParts, Norms, Weights};
use crate::paper::{PaperError, PaperRow, row_for};
use crate::step::{Rate, StepTime, Work, microbatch_option, step_time};

/// The peak of the "theoretical" column in Table 7.
const V100_FLOPS: f64 = 120e12;
/// The cost of forward and backward in forward passes, as in Table 7.
const PASSES: f64 = 3.0;

const SECONDS_A_DAY: f64 = 86400.0;

/// The command line option that turns activation checkpointing on.
const CHECKPOINTING: &str = "--set model.use_checkpoint=true";

/// The input of a plan.
#[derive(Debug, Clone)]
pub struct Request {
    /// The name of the run: the path of its configuration.
    pub name: String,
    /// The work of a step.
    pub work: Work,
    /// The memory of the layers, for each implementation of normalization.
    pub layers: Vec<(Norms, Vec<LayerMemory>)>,
    /// The implementation of normalization that this program uses on this hardware.
    pub norms: Norms,
    /// The division of a batch over the requested number of GPUs.
    pub batch: BatchDivision,
    /// The division of a batch over other numbers of GPUs.
    pub worlds: Vec<World>,
    /// The number of steps in the run.
    pub steps: u64,
    /// The mean size of an image file in bytes.
    pub mean_image_bytes: u64,
    /// The size of a checkpoint in bytes.
    pub checkpoint_bytes: u64,
    /// The number of checkpoints that the run writes.
    pub num_saves: u64,
    /// The largest number of checkpoints that exist at once.
    pub most_checkpoints: u64,
}

/// A number of GPUs for the scaling table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// The number of GPUs.
    pub gpus: u64,
    /// The division of a batch over them, or the reason why there is none.
    pub batch: Result<BatchDivision, String>,
    /// Whether the division uses another microbatch because the configured one does not divide a GPU's share.
    pub other_microbatch: bool,
}

/// The source of a GPU's speed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Speed {
    /// The model of a step, at a fraction of the GPU's peak (model FLOP utilization).
    Mfu(f64),
    /// The model of a step, at the measured images per second of a single GPU.
    Measured(f64),
    /// The rates that the paper measured, including communication.
    Paper,
    /// The speed is unknown: only memory and storage are planned.
    Unknown,
}

/// The reason why no plan can be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The paper has no rate of this network.
    #[error(transparent)]
    Paper(#[from] PaperError),
    /// The paper's rates were asked for with a GPU other than the V100.
    #[error("the paper's rates are images a V100-second: ask for --gpu v100 with --rates paper")]
    NotV100,
}

/// The memory of one GPU with another implementation of normalization, or with checkpointing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MemoryVariant {
    /// The implementation of normalization.
    pub norms: Norms,
    /// Whether activation checkpointing is on.
    pub checkpointing: bool,
    /// The activations that forward keeps for backward, in bytes per image.
    pub activation_bytes_per_image: u64,
    /// The memory at the microbatch of the request, in bytes.
    pub total_bytes: u64,
    /// Whether that fits; `None` if the memory of the hardware is unknown.
    pub fits: Option<bool>,
    /// The largest microbatch that fits; `None` if the memory of the hardware is unknown.
    pub largest_microbatch: Option<u64>,
}

/// The time of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RunTime {
    /// The images per second of one GPU.
    pub images_per_second_per_gpu: f64,
    /// The images per second of all GPUs.
    pub images_per_second: f64,
    /// The seconds of a step.
    pub step_seconds: f64,
    /// The time of a step by part; `None` with the paper's rates.
    pub step: Option<StepTime>,
    /// The days of the run.
    pub days: f64,
    /// The days of the run times the number of GPUs.
    pub gpu_days: f64,
    /// The rate at which data must be read.
    pub data: DataRate,
}

/// The rate at which data must be read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DataRate {
    /// The images per second of all hosts.
    pub images_per_second: f64,
    /// The megabytes (10^6 bytes) of files per second of all hosts.
    pub megabytes_per_second: f64,
    /// The images per second of one host.
    pub images_per_second_per_host: f64,
    /// The mean size of a file in bytes.
    pub mean_image_bytes: u64,
}

/// The storage that checkpoints take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CheckpointStorage {
    /// The size of one checkpoint in bytes.
    pub checkpoint_bytes: u64,
    /// The number of checkpoints that the run writes.
    pub num_saves: u64,
    /// The largest number of checkpoints that exist at once.
    pub most_checkpoints: u64,
    /// The bytes of that many checkpoints; `u64::MAX` if the product overflows.
    pub most_bytes: u64,
}

/// The missing memory of a run that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// The number of missing bytes.
    pub missing_bytes: u64,
    /// The command line options that make the run fit, best first. Each is sufficient on its own. Empty if none helps.
    pub options: Vec<String>,
    /// The least memory that this network needs: one image per pass, with checkpointing.
    pub least_bytes: u64,
}

/// A row of the scaling table: the run on another number of GPUs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scaling {
    /// The number of GPUs.
    pub gpus: u64,
    /// The reason why the batch does not divide over them; `None` if it does.
    pub refused: Option<String>,
    /// The command line option that the run needs, if the configured microbatch does not divide a GPU's share.
    pub needs: Option<String>,
    /// Whether the memory of one GPU is sufficient; `None` if it is unknown.
    pub fits: Option<bool>,
    /// The number of samples in a pass.
    pub microbatch: Option<u64>,
    /// The number of passes in a step.
    pub accumulation: Option<u64>,
    /// The seconds of a step.
    pub step_seconds: Option<f64>,
    /// The seconds of a step that are spent waiting for the all-reduce.
    pub exposed_seconds: Option<f64>,
    /// The images per second of all GPUs.
    pub images_per_second: Option<f64>,
    /// The days of the run.
    pub days: Option<f64>,
    /// The images per second of a GPU, relative to the first row with a valid division.
    pub efficiency: Option<f64>,
}

/// The plan of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The name of the run.
    pub name: String,
    /// The hardware.
    pub hardware: Hardware,
    /// The source of the speed.
    pub speed: Speed,
    /// The network's row of Table 7, with the paper's rates.
    pub paper: Option<PaperRow>,
    /// The division of a batch over ranks and passes.
    pub batch: BatchDivision,
    /// The number of steps in the run.
    pub steps: u64,
    /// The implementation of normalization that this program uses on the hardware.
    pub norms: Norms,
    /// The memory by part, as the run is configured.
    pub memory: MemoryParts,
    /// The missing memory; `None` if the run fits, or if the memory of the hardware is unknown.
    pub shortage: Option<Shortage>,
    /// The memory with each implementation of normalization, with and without checkpointing.
    pub variants: Vec<MemoryVariant>,
    /// The time of the run; `None` if the speed is unknown.
    pub time: Option<RunTime>,
    /// The storage that checkpoints take.
    pub storage: CheckpointStorage,
    /// The run on other numbers of GPUs, with the same global batch. Empty with the paper's rates, which do not cover
    /// them.
    pub scaling: Vec<Scaling>,
}

/// Plans a run on `hardware`.
///
/// # Errors
/// If `speed` is [`Speed::Paper`] and the paper has no rate of this network, or `hardware` is not a V100.
pub fn plan(request: &Request, hardware: &Hardware, speed: Speed) -> Result<Report, PlanError> {
    let Request { work, batch, .. } = request;
    let row = match speed {
        Speed::Paper if hardware.kind != GpuKind::V100 => return Err(PlanError::NotV100),
        Speed::Paper => Some(row_for(V100_FLOPS / (PASSES * work.forward_flops as f64))?),
        _ => None,
    };
    let rate = match speed {
        Speed::Mfu(mfu) => Some(Rate::Mfu(mfu)),
        Speed::Measured(images_per_second) => Some(Rate::Measured(images_per_second)),
        Speed::Paper | Speed::Unknown => None,
    };
    let time = match (rate, row) {
        (Some(rate), _) => Some(step_time(hardware, work, batch, rate)).map(|step| (step.seconds, Some(step))),
        (None, Some(row)) => {
            Some((batch.global_batch as f64 / (row.images_per_v100_second * batch.world_size as f64), None))
        }
        (None, None) => None,
    };
    Ok(Report {
        name: request.name.clone(),
        hardware: *hardware,
        speed,
        paper: row.copied(),
        batch: *batch,
        steps: request.steps,
        norms: request.norms,
        memory: parts(request, hardware),
        shortage: shortage(request, hardware),
        variants: variants(request, hardware),
        time: time.map(|(seconds, step)| days(request, seconds, step)),
        storage: CheckpointStorage {
            checkpoint_bytes: request.checkpoint_bytes,
            num_saves: request.num_saves,
            most_checkpoints: request.most_checkpoints,
            most_bytes: request.checkpoint_bytes.saturating_mul(request.most_checkpoints),
        },
        scaling: rate.map_or_else(Vec::new, |rate| scaling(request, hardware, rate)),
    })
}

fn memory(request: &Request, hardware: &Hardware, norms: Norms, checkpointing: bool) -> Memory {
    memory_of(request, hardware, request.work.weights, norms, checkpointing)
}

fn memory_of(request: &Request, hardware: &Hardware, weights: Weights, norms: Norms, checkpointing: bool) -> Memory {
    let layers = request.layers.iter().find(|(other, _)| *other == norms).map_or(&[][..], |(_, layers)| layers);
    Memory::new(weights, layers, checkpointing, hardware.kind != GpuKind::Cpu)
}

fn parts(request: &Request, hardware: &Hardware) -> MemoryParts {
    memory(request, hardware, request.norms, request.work.recomputes).parts(request.batch.microbatch)
}

/// Returns the missing memory. A smaller microbatch is the first option, because it costs no compute; checkpointing
/// costs a third more.
fn shortage(request: &Request, hardware: &Hardware) -> Option<Shortage> {
    let limit = hardware.memory_bytes?;
    let missing_bytes = parts(request, hardware).total.checked_sub(limit).filter(|missing| *missing > 0)?;
    let Request { work, batch, norms, .. } = request;
    let divided = |limit: u64| BatchDivision::with_largest_microbatch(limit, batch.global_batch, batch.world_size);
    let largest = |checkpointing| memory(request, hardware, *norms, checkpointing).largest_microbatch(limit);
    let mut options: Vec<String> = divided(largest(work.recomputes)).iter().map(microbatch_option).collect();
    if !work.recomputes {
        let limit = largest(true);
        if limit >= batch.microbatch {
            options.push(CHECKPOINTING.to_owned());
        } else if options.is_empty() {
            options.extend(divided(limit).map(|batch| format!("{CHECKPOINTING} {}", microbatch_option(&batch))));
        }
    }
    let least_bytes = memory(request, hardware, *norms, true).parts(1).total;
    Some(Shortage { missing_bytes, options, least_bytes })
}

fn variants(request: &Request, hardware: &Hardware) -> Vec<MemoryVariant> {
    let combinations = request.layers.iter().flat_map(|(norms, _)| [(*norms, false), (*norms, true)]);
    combinations
        .map(|(norms, checkpointing)| {
            let memory = memory(request, hardware, norms, checkpointing);
            let total_bytes = memory.parts(request.batch.microbatch).total;
            MemoryVariant {
                norms,
                checkpointing,
                activation_bytes_per_image: memory.activation_bytes(),
                total_bytes,
                fits: hardware.memory_bytes.map(|limit| total_bytes <= limit),
                largest_microbatch: hardware.memory_bytes.map(|limit| memory.largest_microbatch(limit)),
            }
        })
        .collect()
}

fn days(request: &Request, step_seconds: f64, step: Option<StepTime>) -> RunTime {
    let BatchDivision { world_size: world, global_batch, .. } = request.batch;
    let images_per_second = global_batch as f64 / step_seconds;
    let days = request.steps as f64 * step_seconds / SECONDS_A_DAY;
    RunTime {
        images_per_second_per_gpu: images_per_second / world as f64,
        images_per_second,
        step_seconds,
        step,
        days,
        gpu_days: days * world as f64,
        data: DataRate {
            images_per_second,
            megabytes_per_second: images_per_second * request.mean_image_bytes as f64 / 1e6,
            images_per_second_per_host: images_per_second / world.div_ceil(GPUS_PER_NODE) as f64,
            mean_image_bytes: request.mean_image_bytes,
        },
    }
}

fn scaling(request: &Request, hardware: &Hardware, rate: Rate) -> Vec<Scaling> {
    let mut first: Option<f64> = None;
    let rows = request.worlds.iter().map(|World { gpus, batch, other_microbatch }| match batch {
        Err(reason) => Scaling {
            gpus: *gpus,
            refused: Some(reason.clone()),
            needs: None,
            fits: None,
            microbatch: None,
            accumulation: None,
            step_seconds: None,
            exposed_seconds: None,
            images_per_second: None,
            days: None,
            efficiency: None,
        },
        Ok(batch) => {
            let time = step_time(hardware, &request.work, batch, rate);
            let images_per_second = batch.global_batch as f64 / time.seconds;
            let per_gpu = images_per_second / *gpus as f64;
            let weights = Weights { float_sums: *gpus > 1, ..request.work.weights };
            let memory = memory_of(request, hardware, weights, request.norms, request.work.recomputes);
            Scaling {
                gpus: *gpus,
                refused: None,
                needs: other_microbatch.then(|| microbatch_option(batch)),
                fits: hardware.memory_bytes.map(|limit| memory.parts(batch.microbatch).total <= limit),
                microbatch: Some(batch.microbatch),
                accumulation: Some(batch.accumulation),
                step_seconds: Some(time.seconds),
                exposed_seconds: Some(time.exposed_seconds),
                images_per_second: Some(images_per_second),
                days: Some(request.steps as f64 * time.seconds / SECONDS_A_DAY),
                efficiency: Some(per_gpu / *first.get_or_insert(per_gpu)),
            }
        }
    });
    rows.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::memory::tests::layers;
    use crate::step::tests::work;

    pub(crate) fn request() -> Request {
        let batch = |world: u64| BatchDivision {
            world_size: world,
            global_batch: 2048,
            microbatch: 2048 / world,
            accumulation: 1,
        };
        Request {
            name: "test".into(),
            work: work(),
            layers: vec![(Norms::Fused, layers()), (Norms::Composed, layers())],
            norms: Norms::Fused,
            batch: batch(64),
            worlds: vec![
                World { gpus: 8, batch: Err("too few".into()), other_microbatch: false },
                World { gpus: 64, batch: Ok(batch(64)), other_microbatch: true },
                World { gpus: 512, batch: Ok(batch(512)), other_microbatch: false },
            ],
            steps: 540_000,
            mean_image_bytes: 110_000,
            checkpoint_bytes: 4_000_000_000,
            num_saves: 54,
            most_checkpoints: 4,
        }
    }

    fn report(speed: Speed) -> Report {
        plan(&request(), &GpuKind::V100.hardware(), speed).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn checkpointing_adds_a_third_of_compute_and_saves_memory() {
        let mut request = request();
        let plain = report(Speed::Mfu(0.4));
        request.work.recomputes = true;
        let checkpointed =
            plan(&request, &GpuKind::V100.hardware(), Speed::Mfu(0.4)).unwrap_or_else(|error| panic!("{error}"));
        let step = |report: &Report| report.time.as_ref().and_then(|time| time.step).map(|step| step.compute_seconds);
        let (Some(once), Some(twice)) = (step(&plain), step(&checkpointed)) else { panic!("there is a rate") };
        assert!((twice / once - 4.0 / 3.0).abs() < 1e-12);
        assert!(checkpointed.memory.activations < plain.memory.activations);
    }

    #[test]
    fn days_follow_from_the_step_time() {
        let report = report(Speed::Mfu(0.4));
        let time = report.time.unwrap_or_else(|| panic!("there is a rate"));
        assert!((time.days - 540_000.0 * time.step_seconds / 86400.0).abs() < 1e-9);
        assert!((time.gpu_days / time.days - 64.0).abs() < 1e-9);
        assert!((time.images_per_second * time.step_seconds - 2048.0).abs() < 1e-6);
        assert_eq!(report.storage.most_bytes, 16_000_000_000);
    }

    #[test]
    fn efficiency_is_relative_to_the_first_valid_number_of_gpus() {
        let scaling = report(Speed::Mfu(0.4)).scaling;
        assert_eq!(scaling[0].refused.as_deref(), Some("too few"));
        assert_eq!(scaling[1].efficiency, Some(1.0));
        assert!(scaling[2].efficiency.is_some_and(|part| part > 0.0 && part < 1.0), "{:?}", scaling[2]);
        assert_eq!(scaling[1].needs.as_deref(), Some("--set training.microbatch=32"));
        assert_eq!((scaling[0].fits, scaling[2].fits, &scaling[2].needs), (None, Some(true), &None));
    }

    /// The request has a microbatch of 32; the memory is what some number of images takes.
    #[test]
    fn a_run_that_does_not_fit_gets_options() {
        let mut request = request();
        let mut hardware = GpuKind::V100.hardware();
        let mut lack = |recomputes, checkpointing, images| {
            request.work.recomputes = recomputes;
            hardware.memory_bytes = Some(memory(&request, &hardware, request.norms, checkpointing).parts(images).total);
            shortage(&request, &hardware)
        };
        assert_eq!(lack(false, false, 32), None);
        let options = |lack: Option<Shortage>| lack.map(|lack| lack.options).unwrap_or_default();
        // The largest divisor of 32 up to 31 is 16. With checkpointing all 32 images fit into the memory of 31 without.
        assert_eq!(
            options(lack(false, false, 31)),
            ["--set training.microbatch=16", "--set model.use_checkpoint=true"]
        );
        assert_eq!(options(lack(true, true, 31)), ["--set training.microbatch=16"]);
        let none = lack(false, true, 0);
        assert!(none.as_ref().is_some_and(|none| none.options.is_empty() && none.missing_bytes > 0), "{none:?}");
    }

    #[test]
    fn both_options_are_given_when_one_image_needs_checkpointing() {
        let mut request = request();
        // One layer that keeps much memory, and needs no more in backward.
        let layer = LayerMemory { inner_bytes: 1 << 33, ..layers()[0].clone() };
        let not_checkpointed =
            LayerMemory { inner_bytes: 0, can_checkpoint: false, backward_bytes: 0, ..layer.clone() };
        request.layers = vec![(Norms::Fused, vec![layer.clone(), layer, not_checkpointed])];
        let mut hardware = GpuKind::V100.hardware();
        hardware.memory_bytes = Some(memory(&request, &hardware, request.norms, true).parts(1).total);
        let lack = shortage(&request, &hardware);
        let options = lack.as_ref().map(|lack| lack.options.clone()).unwrap_or_default();
        assert_eq!(options, ["--set model.use_checkpoint=true --set training.microbatch=1"]);
        assert_eq!(lack.map(|lack| lack.least_bytes), hardware.memory_bytes);
    }

    #[test]
    fn memory_and_storage_are_planned_without_a_rate() {
        let report = report(Speed::Unknown);
        assert!(report.time.is_none() && report.scaling.is_empty());
        assert!(report.memory.total > 0);
    }

    #[test]
    fn the_papers_rates_need_a_v100_and_a_known_network() {
        let h100 = plan(&request(), &GpuKind::H100.hardware(), Speed::Paper);
        assert_eq!(h100, Err(PlanError::NotV100));
        let mut own = request();
        own.work.forward_flops = 1_000_000;
        assert!(matches!(plan(&own, &GpuKind::V100.hardware(), Speed::Paper), Err(PlanError::Paper(_))));
        own.work.forward_flops = (120e12 / 3.0 / 182.3) as u64;
        let report = plan(&own, &GpuKind::V100.hardware(), Speed::Paper).unwrap_or_else(|error| panic!("{error}"));
        let time = report.time.unwrap_or_else(|| panic!("there is a rate"));
        assert!((time.images_per_second_per_gpu - 74.1).abs() < 1e-9);
    }

    #[test]
    fn json_contains_every_part() {
        let json = serde_json::to_value(report(Speed::Mfu(0.4))).unwrap_or_default();
        for path in ["/memory/total", "/time/step/exposed_seconds", "/hardware/kind", "/variants/3/largest_microbatch"]
        {
            assert!(json.pointer(path).is_some(), "{path}");
        }
    }
}
