//! The plan of a run: everything put together.

use admiral_contract::BatchDivision;
use serde::Serialize;

use crate::hardware::{GPUS_PER_NODE, GpuKind, Hardware};
use crate::memory::{LayerMemory, Memory, Norms, Parts, Weights};
use crate::paper::{PaperError, Row, row_for};
use crate::step::{Rate, StepTime, Work, microbatch_option, step_time};

/// 120 TFLOPS and three forward passes: the "theoretical" column of Table 7.
const V100_FLOPS: f64 = 120e12;
const PASSES: f64 = 3.0;

const SECONDS_A_DAY: f64 = 86400.0;

/// The option with which layers keep their inputs alone.
const CHECKPOINTING: &str = "--set model.use_checkpoint=true";

/// What is known of a run before it starts.
#[derive(Debug, Clone)]
pub struct Request {
    /// The run's name, as its file.
    pub name: String,
    /// What a step has to do.
    pub work: Work,
    /// What the layers keep for backward, for each way to normalise.
    pub layers: Vec<(Norms, Vec<LayerMemory>)>,
    /// The way that this program takes on this hardware.
    pub norms: Norms,
    /// How a step's samples are shared by the GPUs asked for.
    pub batch: BatchDivision,
    /// The same for other numbers of GPUs.
    pub worlds: Vec<World>,
    /// Steps of the run.
    pub steps: u64,
    /// Bytes of an image file, on average.
    pub mean_image_bytes: u64,
    /// Bytes of a checkpoint.
    pub checkpoint_bytes: u64,
    /// Checkpoints of the whole run.
    pub num_saves: u64,
    /// Checkpoints that lie there at once, at most.
    pub most_checkpoints: u64,
}

/// Another number of GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// GPUs.
    pub gpus: u64,
    /// How they share a step's samples, or why they cannot.
    pub batch: Result<BatchDivision, String>,
    /// Whether that takes another microbatch than the configuration's, which would not come out even.
    pub other_microbatch: bool,
}

/// Where the speed of a GPU comes from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Speed {
    /// The model of a step, with a part of the GPU's peak.
    Mfu(f64),
    /// The model of a step, with images a second of one GPU by itself as measured.
    Measured(f64),
    /// The paper's measured rates, communication included.
    Paper,
    /// None: only memory and storage are planned.
    Unknown,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The paper has no rate.
    #[error(transparent)]
    Paper(#[from] PaperError),
    /// The paper's rates are those of a V100.
    #[error("the paper's rates are images a V100-second: ask for --gpu v100 with --rates paper")]
    NotV100,
}

/// Memory of one way to run, at the batch of one pass.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Variant {
    /// How normalization is computed.
    pub norms: Norms,
    /// Whether layers keep their inputs alone.
    pub checkpointing: bool,
    /// What forward keeps for backward, in bytes an image.
    pub activation_bytes_per_image: u64,
    /// All memory at the batch of one pass.
    pub total_bytes: u64,
    /// Whether that fits; none where the memory is not known.
    pub fits: Option<bool>,
    /// The largest microbatch that fits; none where the memory is not known.
    pub largest_microbatch: Option<u64>,
}

/// Days of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Days {
    /// Images a second of one GPU.
    pub images_per_second_per_gpu: f64,
    /// Images a second of all.
    pub images_per_second: f64,
    /// Seconds of a step.
    pub step_seconds: f64,
    /// Where they go; none by the paper's rates.
    pub step: Option<StepTime>,
    /// Days of the run.
    pub days: f64,
    /// Days times GPUs.
    pub gpu_days: f64,
    /// What has to be read for it.
    pub data: Duties,
}

/// What the data have to give.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Duties {
    /// Images a second over all hosts.
    pub images_per_second: f64,
    /// Megabytes (10^6) of files a second over all hosts.
    pub megabytes_per_second: f64,
    /// Images a second of one host.
    pub images_per_second_per_host: f64,
    /// Bytes of a file, on average.
    pub mean_image_bytes: u64,
}

/// What checkpoints take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Storage {
    /// Bytes of one.
    pub checkpoint_bytes: u64,
    /// How many the run writes.
    pub num_saves: u64,
    /// How many lie there at once, at most.
    pub most_checkpoints: u64,
    /// Bytes of those, or the largest number of 64 bits where they are more.
    pub most_bytes: u64,
}

/// What a run lacks whose memory does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// Bytes that are missing.
    pub missing_bytes: u64,
    /// What to give so that it fits, the best first, each enough by itself; empty where nothing helps.
    pub options: Vec<String>,
    /// The least that this network takes: one image a pass, with checkpointing.
    pub least_bytes: u64,
}

/// The run on another number of GPUs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scaling {
    /// GPUs.
    pub gpus: u64,
    /// Why these cannot share the batch; none where they can.
    pub refused: Option<String>,
    /// The option that such a run needs, where the configured microbatch does not come out even.
    pub needs: Option<String>,
    /// Whether the memory of one GPU suffices; none where it is not known.
    pub fits: Option<bool>,
    /// Samples of a pass.
    pub microbatch: Option<u64>,
    /// Passes of a step.
    pub accumulation: Option<u64>,
    /// Seconds of a step.
    pub step_seconds: Option<f64>,
    /// Seconds of a step that the sum of gradients is waited for.
    pub exposed_seconds: Option<f64>,
    /// Images a second of all.
    pub images_per_second: Option<f64>,
    /// Days of the run.
    pub days: Option<f64>,
    /// Images a second of a GPU, against those of the smallest number of GPUs listed.
    pub efficiency: Option<f64>,
}

/// The plan of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The run's name.
    pub name: String,
    /// The numbers of the hardware that were taken.
    pub hardware: Hardware,
    /// Where the speed comes from.
    pub speed: Speed,
    /// The row of Table 7, by the paper's rates.
    pub paper: Option<Row>,
    /// How a step's samples are shared.
    pub batch: BatchDivision,
    /// Steps of the run.
    pub steps: u64,
    /// How this program normalizes there.
    pub norms: Norms,
    /// Memory by part, of the way that this run is configured.
    pub memory: Parts,
    /// What the memory lacks; none where the run fits, and where the memory of the hardware is not known.
    pub shortage: Option<Shortage>,
    /// Memory in other ways.
    pub variants: Vec<Variant>,
    /// Time; none where no speed is known.
    pub time: Option<Days>,
    /// Checkpoints.
    pub storage: Storage,
    /// Other numbers of GPUs with the same global batch; empty by the paper's rates, which say nothing of them.
    pub scaling: Vec<Scaling>,
}

/// Plans a run on `hardware`.
///
/// # Errors
/// Where the paper's rates are asked for and it has none.
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
        storage: Storage {
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
    let layers = request.layers.iter().find(|(of, _)| *of == norms).map_or(&[][..], |(_, layers)| layers);
    Memory::new(weights, layers, checkpointing, hardware.kind != GpuKind::Cpu)
}

fn parts(request: &Request, hardware: &Hardware) -> Parts {
    memory(request, hardware, request.norms, request.work.recomputes).parts(request.batch.microbatch)
}

/// A smaller microbatch comes first, for it costs no compute; checkpointing costs a third more.
fn shortage(request: &Request, hardware: &Hardware) -> Option<Shortage> {
    let limit = hardware.memory_bytes?;
    let missing_bytes = parts(request, hardware).total.checked_sub(limit).filter(|missing| *missing > 0)?;
    let Request { work, batch, norms, .. } = request;
    let even = |most: u64| BatchDivision::with_largest_microbatch(most, batch.global_batch, batch.world_size);
    let most = |checkpointing| memory(request, hardware, *norms, checkpointing).largest_microbatch(limit);
    let mut options: Vec<String> = even(most(work.recomputes)).iter().map(microbatch_option).collect();
    if !work.recomputes {
        let most = most(true);
        if most >= batch.microbatch {
            options.push(CHECKPOINTING.to_owned());
        } else if options.is_empty() {
            options.extend(even(most).map(|batch| format!("{CHECKPOINTING} {}", microbatch_option(&batch))));
        }
    }
    let least_bytes = memory(request, hardware, *norms, true).parts(1).total;
    Some(Shortage { missing_bytes, options, least_bytes })
}

fn variants(request: &Request, hardware: &Hardware) -> Vec<Variant> {
    let ways = request.layers.iter().flat_map(|(norms, _)| [(*norms, false), (*norms, true)]);
    ways.map(|(norms, checkpointing)| {
        let memory = memory(request, hardware, norms, checkpointing);
        let total_bytes = memory.parts(request.batch.microbatch).total;
        Variant {
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

fn days(request: &Request, step_seconds: f64, step: Option<StepTime>) -> Days {
    let BatchDivision { world_size: world, global_batch, .. } = request.batch;
    let images_per_second = global_batch as f64 / step_seconds;
    let days = request.steps as f64 * step_seconds / SECONDS_A_DAY;
    Days {
        images_per_second_per_gpu: images_per_second / world as f64,
        images_per_second,
        step_seconds,
        step,
        days,
        gpu_days: days * world as f64,
        data: Duties {
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
            let of_one = images_per_second / *gpus as f64;
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
                efficiency: Some(of_one / *first.get_or_insert(of_one)),
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

    fn made(speed: Speed) -> Report {
        plan(&request(), &GpuKind::V100.hardware(), speed).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn checkpointing_costs_a_third_of_compute_and_saves_memory() {
        let mut request = request();
        let plain = made(Speed::Mfu(0.4));
        request.work.recomputes = true;
        let again =
            plan(&request, &GpuKind::V100.hardware(), Speed::Mfu(0.4)).unwrap_or_else(|error| panic!("{error}"));
        let step = |report: &Report| report.time.as_ref().and_then(|time| time.step).map(|step| step.compute_seconds);
        let (Some(once), Some(twice)) = (step(&plain), step(&again)) else { panic!("there is a rate") };
        assert!((twice / once - 4.0 / 3.0).abs() < 1e-12);
        assert!(again.memory.activations < plain.memory.activations);
    }

    #[test]
    fn days_follow_from_the_step() {
        let report = made(Speed::Mfu(0.4));
        let time = report.time.unwrap_or_else(|| panic!("there is a rate"));
        assert!((time.days - 540_000.0 * time.step_seconds / 86400.0).abs() < 1e-9);
        assert!((time.gpu_days / time.days - 64.0).abs() < 1e-9);
        assert!((time.images_per_second * time.step_seconds - 2048.0).abs() < 1e-6);
        assert_eq!(report.storage.most_bytes, 16_000_000_000);
    }

    #[test]
    fn the_first_number_of_gpus_that_can_is_what_efficiency_is_measured_by() {
        let scaling = made(Speed::Mfu(0.4)).scaling;
        assert_eq!(scaling[0].refused.as_deref(), Some("too few"));
        assert_eq!(scaling[1].efficiency, Some(1.0));
        assert!(scaling[2].efficiency.is_some_and(|part| part > 0.0 && part < 1.0), "{:?}", scaling[2]);
        assert_eq!(scaling[1].needs.as_deref(), Some("--set training.microbatch=32"));
        assert_eq!((scaling[0].fits, scaling[2].fits, &scaling[2].needs), (None, Some(true), &None));
    }

    /// With as much memory as a number of images takes, 32 a pass being asked for.
    #[test]
    fn what_does_not_fit_is_told_what_would() {
        let mut request = request();
        let mut hardware = GpuKind::V100.hardware();
        let mut lack = |recomputes, checkpointing, images| {
            request.work.recomputes = recomputes;
            hardware.memory_bytes = Some(memory(&request, &hardware, request.norms, checkpointing).parts(images).total);
            shortage(&request, &hardware)
        };
        assert_eq!(lack(false, false, 32), None);
        let told = |lack: Option<Shortage>| lack.map(|lack| lack.options).unwrap_or_default();
        // 31 come out even as 16; with checkpointing all 32 fit into that, and into the memory that those take.
        assert_eq!(told(lack(false, false, 31)), ["--set training.microbatch=16", "--set model.use_checkpoint=true"]);
        assert_eq!(told(lack(true, true, 31)), ["--set training.microbatch=16"]);
        let none = lack(false, true, 0);
        assert!(none.as_ref().is_some_and(|none| none.options.is_empty() && none.missing_bytes > 0), "{none:?}");
    }

    #[test]
    fn where_one_image_needs_checkpointing_both_options_are_told() {
        let mut request = request();
        // One layer that keeps much and is needed no more in backward.
        let layer = LayerMemory { inner_bytes: 1 << 33, ..layers()[0].clone() };
        let needs_all = LayerMemory { inner_bytes: 0, can_checkpoint: false, backward_bytes: 0, ..layer.clone() };
        request.layers = vec![(Norms::Fused, vec![layer.clone(), layer, needs_all])];
        let mut hardware = GpuKind::V100.hardware();
        hardware.memory_bytes = Some(memory(&request, &hardware, request.norms, true).parts(1).total);
        let lack = shortage(&request, &hardware);
        let options = lack.as_ref().map(|lack| lack.options.clone()).unwrap_or_default();
        assert_eq!(options, ["--set model.use_checkpoint=true --set training.microbatch=1"]);
        assert_eq!(lack.map(|lack| lack.least_bytes), hardware.memory_bytes);
    }

    #[test]
    fn without_a_rate_memory_and_storage_are_planned() {
        let report = made(Speed::Unknown);
        assert!(report.time.is_none() && report.scaling.is_empty());
        assert!(report.memory.total > 0);
    }

    #[test]
    fn the_papers_rates_are_a_v100s_and_know_their_networks() {
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
    fn json_has_every_part() {
        let json = serde_json::to_value(made(Speed::Mfu(0.4))).unwrap_or_default();
        for path in ["/memory/total", "/time/step/exposed_seconds", "/hardware/kind", "/variants/3/largest_microbatch"]
        {
            assert!(json.pointer(path).is_some(), "{path}");
        }
    }
}
