//! A run put together: data, network, memory and trainer, ready for steps. The loop and the benchmark share it.

use tch::{Device, Tensor};

use admiral_comm::{Collective, CollectiveError, GpuSums, host_name};
use admiral_data::{Batch, ImageSource, Loader, SamplePlan, SampleReader, Sources};
use crate::diffusion::{GaussianDiffusion, TimestepSampler, upload};
use admiral_comm::ledger;
use crate::model::{Network, Task, initialize};
use crate::ops::{self, bridge};

use super::TrainError;
use super::batches::BatchPlan;
use super::config::{DeviceChoice, FusedKernels, PrecisionMode};
use super::flat::FlatMemory;
use super::loss_scale::LossScale;
use super::objective::{Microbatch, Objective};
use super::run_config::RunConfig;
use super::step::{StepReport, Trainer};

/// The parts of a run that take steps.
#[derive(Debug)]
pub struct Session {
    /// The configuration.
    pub config: RunConfig,
    /// The network and everything that training changes.
    pub trainer: Trainer,
    /// Draws timesteps.
    pub timestep_sampler: TimestepSampler,
    /// Images that could not be decoded and were replaced, on this rank.
    pub num_skipped_images: u64,
    sources: Sources,
    batches: BatchPlan,
    loader: Option<Loader>,
    device: Device,
}

impl Session {
    /// Builds the network with its initial values. No data are read yet: a checkpoint may be loaded first.
    ///
    /// # Errors
    /// Where the configuration cannot work here: the device, the number of ranks, the classes of the data.
    pub fn open(config: RunConfig, sources: Sources, collective: &dyn Collective) -> Result<Self, TrainError> {
        let refuse = |mistakes: Vec<admiral_config::Invalid>| {
            let lines: Vec<String> = mistakes.iter().map(|m| format!("{}: {}", m.field, m.message)).collect();
            TrainError::Refused(lines.join("\n"))
        };
        // First, because all ranks take part: what follows may fail on one of them.
        set_threads(config.run.num_threads, collective)?;
        let device = choose_device(config.run.device, collective.local_rank())?;
        ops::set_fused(config.run.fused_kernels == FusedKernels::Auto);
        if collective.rank() == 0 {
            tracing::info!("fused operations on {device:?}: {}", ops::kernel_choice(device));
        }
        let (world_size, rank) = (collective.world_size() as u64, collective.rank() as u64);
        let batches = BatchPlan::new(config.training.global_batch, config.training.microbatch, world_size, rank)
            .map_err(|mistake| refuse(vec![mistake]))?;
        check_classes(&config, &sources)?;

        let (network, specs) = Network::build(&config.network_plan().map_err(refuse)?);
        let memory =
            FlatMemory::allocate(specs, config.precision.mode.kind(), config.optimizer.ema_rates.len(), device)?;
        memory.set_master(|place, values| {
            initialize(&memory.specs().as_slice()[place], place, config.run.seed, values);
        });
        let diffusion = GaussianDiffusion::new(&config.diffusion)
            .map_err(|error| TrainError::Refused(format!("diffusion.timestep_respacing: {error}")))?;
        let timestep_sampler = TimestepSampler::new(config.diffusion.timestep_sampler, diffusion.num_timesteps());
        let objective = match (config.task, config.model.small_size) {
            (Task::Classifier, _) => Objective::Classifier { diffusion, noised: config.classifier.noised },
            (Task::SuperResolution, Some(small_size)) => Objective::SuperResolution { diffusion, small_size },
            _ => Objective::Diffusion(diffusion),
        };
        let loss_scale = match config.precision.mode {
            PrecisionMode::Fp16 => LossScale::Dynamic {
                lg: config.precision.effective_initial_lg_loss_scale(config.task),
                growth: config.precision.fp16_scale_growth,
                floor: config.precision.min_lg_loss_scale,
            },
            PrecisionMode::Fp32 | PrecisionMode::Bf16 => LossScale::Off,
        };
        let mut trainer =
            Trainer::new(network, memory, objective, config.optimizer.clone(), loss_scale, config.run.seed);
        // A rank that is alone has nothing to sum, and its parameters nobody to tell.
        if config.training.overlap_all_reduce && world_size > 1 {
            let bytes = config.training.bucket_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
            trainer.overlap(bytes)?;
        }
        Ok(Self { config, trainer, timestep_sampler, num_skipped_images: 0, sources, batches, loader: None, device })
    }

    /// Lets NCCL sum the gradients where the network computes on GPUs, or says once why they go through the host. Every
    /// rank calls it, when all have opened their sessions.
    ///
    /// # Errors
    /// When the ranks cannot reach each other.
    pub fn join_gpus(&mut self, collective: &dyn Collective) -> Result<(), CollectiveError> {
        let (Device::Cuda(ordinal), true) = (self.device, collective.world_size() > 1) else { return Ok(()) };
        let times = self.config.launch.timeouts();
        // A little longer than the launcher's: where there is one, it decides who is to blame.
        match GpuSums::open(collective, ordinal, times.stall + times.silence)? {
            Ok(gpu) => self.trainer.sum_on_gpus(gpu),
            Err(reason) if collective.rank() == 0 => {
                tracing::warn!(
                    "gradients are summed through the host, over MPI, because NCCL cannot be used: {reason}"
                );
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Where the network computes.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Samples seen so far, over all ranks: the index of the next one.
    #[must_use]
    pub fn next_sample(&self) -> u64 {
        self.trainer.progress.step * self.config.training.global_batch
    }

    /// Starts reading the samples from the trainer's step up to `last_step`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start_loader(&mut self, last_step: u64) -> Result<(), TrainError> {
        let reader = SampleReader::new(self.sources.train.clone(), self.sample_plan(self.config.data.random_crop));
        let passes = self.batches.clone().passes(self.trainer.progress.step, last_step);
        let data = &self.config.data;
        self.loader = Some(Loader::start(reader, data.num_workers, data.prefetch, passes)?);
        Ok(())
    }

    /// The images of the run.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// What a sample is made with.
    #[must_use]
    pub fn sample_plan(&self, random_crop: bool) -> SamplePlan {
        sample_plan(&self.config, random_crop)
    }

    /// Takes one step with the next samples.
    ///
    /// # Errors
    /// Where the data cannot be read, ranks cannot be reached, or the run diverged.
    pub fn step(&mut self, collective: &dyn Collective) -> Result<StepReport, TrainError> {
        let Self { config, trainer, timestep_sampler, num_skipped_images, batches, loader, device, .. } = self;
        let wants_classes = config.model.num_classes.is_some();
        let mut next = |_| {
            let batch = match loader {
                Some(loader) => loader.next()?,
                None => None,
            };
            let (batch, _) = batch.ok_or_else(|| TrainError::Refused("the run has no steps left".into()))?;
            *num_skipped_images += batch.num_skipped;
            let drawn = timestep_sampler.draw(&batch.timestep_uniforms);
            trace_samples(&batch, &drawn.timesteps);
            Ok(to_device(batch, drawn, &config.model, wants_classes, *device))
        };
        ledger::begin_step(trainer.progress.step + 1);
        let mut report = trainer.step(batches.accumulation as usize, batches.global_batch, &mut next, collective)?;
        if timestep_sampler.learns() {
            let bytes: Vec<u8> = report
                .samples
                .unweighted_losses()
                .flat_map(|(timestep, loss)| timestep.to_le_bytes().into_iter().chain(loss.to_le_bytes()))
                .collect();
            let pairs = collective.all_gather(&bytes)?;
            timestep_sampler.update(pairs.iter().flat_map(|bytes| bytes.chunks_exact(16)).map(pair));
        }
        report.seconds = ledger::end_step();
        Ok(report)
    }
}

fn pair(bytes: &[u8]) -> (i64, f64) {
    let (mut timestep, mut loss) = ([0; 8], [0; 8]);
    timestep.copy_from_slice(&bytes[..8]);
    loss.copy_from_slice(&bytes[8..16]);
    (i64::from_le_bytes(timestep), f64::from_le_bytes(loss))
}

/// Logs, where somebody listens, a fingerprint of everything that this rank sees of each sample: by it runs can be
/// compared sample by sample.
fn trace_samples(batch: &Batch, timesteps: &[i64]) {
    if !tracing::enabled!(target: "admiral::samples", tracing::Level::TRACE) || batch.indices.is_empty() {
        return;
    }
    let length = batch.images.len() / batch.indices.len();
    for (i, (index, timestep)) in batch.indices.iter().zip(timesteps).enumerate() {
        let stretch = i * length..(i + 1) * length;
        let values = batch.images[stretch.clone()].iter().chain(&batch.noise[stretch]);
        let hash = values.fold(crc32c::crc32c(&timestep.to_le_bytes()), |hash, value| {
            crc32c::crc32c_append(hash, &value.to_le_bytes())
        });
        tracing::trace!(target: "admiral::samples", "sample {index} timestep {timestep} hash {hash:08x}");
    }
}

/// What a sample of a run is made with.
pub(super) fn sample_plan(config: &RunConfig, random_crop: bool) -> SamplePlan {
    SamplePlan {
        seed: config.run.seed,
        size: config.model.image_size as usize,
        channels: config.model.image_channels as usize,
        random_crop,
        random_flip: config.data.random_flip,
        on_broken_image: config.data.on_broken_image,
    }
}

/// The first `count` training samples made small, `[count, channels, small_size, small_size]`, with their classes: what
/// an upsampler's grid is drawn from.
///
/// # Errors
/// When an image cannot be read.
pub(super) fn low_res_examples(
    config: &RunConfig,
    source: std::sync::Arc<dyn ImageSource>,
    count: u64,
    small_size: i64,
) -> Result<(Tensor, Vec<i64>), TrainError> {
    let plan = SamplePlan { random_flip: false, ..sample_plan(config, false) };
    let batch = SampleReader::new(source, plan).read((0..count).collect())?;
    let (channels, size) = (config.model.image_channels, config.model.image_size);
    let images = Tensor::from_slice(&batch.images).view([count as i64, channels, size, size]);
    Ok((images.adaptive_avg_pool2d([small_size, small_size]), batch.classes))
}

fn check_classes(config: &RunConfig, sources: &Sources) -> Result<(), TrainError> {
    let Some(wanted) = config.model.num_classes else { return Ok(()) };
    let found = sources.train.num_classes();
    if found == 0 {
        return Err(TrainError::Refused(format!(
            "model.num_classes is {wanted}, but the images have no classes; say where they are with data.classes or \
             data.label_path, or set model.num_classes: null"
        )));
    }
    if found as i64 > wanted {
        return Err(TrainError::Refused(format!(
            "model.num_classes is {wanted}, but the data have {found} classes; set it to {found}"
        )));
    }
    // Classes are numbered in each tree by itself: only equal ones mean the same.
    let validation = sources.validation.as_ref().map_or(found, |validation| validation.num_classes());
    if config.task == Task::Classifier && validation != found {
        return Err(TrainError::Refused(format!(
            "the validation images have {validation} classes, the training images {found}; check data.validation_path \
             and data.validation_label_path"
        )));
    }
    Ok(())
}

/// Host batch to device tensors, with the timesteps drawn for it.
pub(super) fn to_device(
    batch: Batch,
    drawn: crate::diffusion::DrawnTimesteps,
    model: &crate::model::ModelConfig,
    wants_classes: bool,
    device: Device,
) -> Microbatch {
    let shape = [batch.indices.len() as i64, model.image_channels, model.image_size, model.image_size];
    let tensor = |values: &[f32]| upload(&Tensor::from_slice(values).view(shape), device);
    Microbatch {
        images: tensor(&batch.images),
        noise: tensor(&batch.noise),
        timesteps: drawn.timesteps,
        weights: upload(&Tensor::from_slice(&drawn.weights), device),
        labels: wants_classes.then(|| upload(&Tensor::from_slice(&batch.classes), device)),
        indices: batch.indices,
    }
}

/// Gives this rank its share of the host's cores, or the number of threads that the configuration wants.
fn set_threads(wanted: usize, collective: &dyn Collective) -> Result<(), TrainError> {
    // Every rank takes part, whatever it wants: another may want a share.
    let hosts = collective.all_gather(host_name().as_bytes())?;
    let num_local_ranks = hosts.iter().filter(|host| **host == hosts[collective.rank()]).count();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if wanted > 0 { wanted } else { (cores / num_local_ranks).max(1) };
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    Ok(())
}

/// The device of the rank with this number on its host.
pub(super) fn choose_device(choice: DeviceChoice, local_rank: usize) -> Result<Device, TrainError> {
    // float32 means float32: what a run is compared with was not rounded to TF32 either.
    bridge::allow_tf32(false)?;
    let num_gpus = if tch::Cuda::is_available() { tch::Cuda::device_count() as usize } else { 0 };
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Auto if num_gpus == 0 => Ok(Device::Cpu),
        DeviceChoice::Cuda if num_gpus == 0 => Err(TrainError::Refused(
            "run.device (or --device) is cuda, but this libtorch sees no GPU; check the driver, or choose cpu".into(),
        )),
        DeviceChoice::Auto | DeviceChoice::Cuda if local_rank < num_gpus => Ok(Device::Cuda(local_rank)),
        DeviceChoice::Auto | DeviceChoice::Cuda => Err(TrainError::Refused(format!(
            "this host has {num_gpus} GPUs, but is given rank number {local_rank} (from 0) of its own; start one \
             rank a GPU"
        ))),
    }
}
