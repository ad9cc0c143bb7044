//! The plan of a run: everything put together.

use serde::Serialize;

use super::hardware::Hardware;
use super::memory::{LayerMemory, Memory, Norms, Parts};
use super::paper::{PaperError, Row, row_for};
use super::step::{Batch, Rate, StepTime, Work, step_time};

/// 120 TFLOPS and three forward passes: the "theoretical" column of Table 7.
const V100_FLOPS: f64 = 120e12;
const PASSES: f64 = 3.0;

const SECONDS_A_DAY: f64 = 86400.0;

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
    pub batch: Batch,
    /// The same for other numbers of GPUs: those that cannot share it come with the reason.
    pub worlds: Vec<(u64, Result<Batch, String>)>,
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
    /// Bytes of those.
    pub most_bytes: u64,
}

/// The run on another number of GPUs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scaling {
    /// GPUs.
    pub gpus: u64,
    /// Why these cannot share the batch; none where they can.
    pub refused: Option<String>,
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
    pub batch: Batch,
    /// Steps of the run.
    pub steps: u64,
    /// How this program normalizes there.
    pub norms: Norms,
    /// Memory by part, of the way that this run is configured.
    pub memory: Parts,
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
        Speed::Paper if hardware.kind != super::GpuKind::V100 => return Err(PlanError::NotV100),
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
            Some((batch.global_batch as f64 / (row.images_per_v100_second * batch.world as f64), None))
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
        variants: variants(request, hardware),
        time: time.map(|(seconds, step)| days(request, seconds, step)),
        storage: Storage {
            checkpoint_bytes: request.checkpoint_bytes,
            num_saves: request.num_saves,
            most_checkpoints: request.most_checkpoints,
            most_bytes: request.checkpoint_bytes * request.most_checkpoints,
        },
        scaling: rate.map_or_else(Vec::new, |rate| scaling(request, hardware, rate)),
    })
}

fn memory(request: &Request, hardware: &Hardware, norms: Norms, checkpointing: bool) -> Memory {
    let layers = request.layers.iter().find(|(of, _)| *of == norms).map_or(&[][..], |(_, layers)| layers);
    Memory::new(request.work.weights, layers, checkpointing, hardware.kind != super::GpuKind::Cpu)
}

fn parts(request: &Request, hardware: &Hardware) -> Parts {
    memory(request, hardware, request.norms, request.work.recomputes).parts(request.batch.microbatch)
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
    let Batch { world, global_batch, .. } = request.batch;
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
            images_per_second_per_host: images_per_second / world.div_ceil(super::GPUS_PER_NODE) as f64,
            mean_image_bytes: request.mean_image_bytes,
        },
    }
}

fn scaling(request: &Request, hardware: &Hardware, rate: Rate) -> Vec<Scaling> {
    let mut first: Option<f64> = None;
    let rows = request.worlds.iter().map(|(gpus, batch)| match batch {
        Err(reason) => Scaling {
            gpus: *gpus,
            refused: Some(reason.clone()),
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
            Scaling {
                gpus: *gpus,
                refused: None,
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
    use crate::GpuKind;
    use crate::memory::tests::layers;
    use crate::step::tests::work;

    pub(crate) fn request() -> Request {
        let batch = |world: u64| Batch { world, global_batch: 2048, microbatch: 2048 / world, accumulation: 1 };
        Request {
            name: "test".into(),
            work: work(),
            layers: vec![(Norms::Fused, layers()), (Norms::Composed, layers())],
            norms: Norms::Fused,
            batch: batch(64),
            worlds: vec![(8, Err("too few".into())), (64, Ok(batch(64))), (512, Ok(batch(512)))],
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
