//! A session: the data, network, memory and trainer of a run. The training loop and `admiral bench step` share it.
//!
//! A session starts as an [`OpenedSession`], into which a checkpoint may be loaded. [`OpenedSession::start`] turns it
//! into a [`Session`], which takes steps.

use admiral_checkpoint::ImagesRecord;
use admiral_comm::{CollectiveError, Ending, agree};
use admiral_config::format_mistakes;
use admiral_contract::BatchDivision;
use admiral_data::{BrokenImage, Loader, SampleReader, Sources, list_names};
use tch::Device;

use crate::context::RunContext;
use crate::diffusion::{GaussianDiffusion, TimestepSampler};
use crate::model::{Network, Task, initialize};
use crate::reduce::NcclReducer;
use crate::run_config::{PrecisionMode, RunConfig};

use super::damage::Damaged;
use super::error::TrainError;
use super::flat::FlatMemory;
use super::loss_scale::LossScale;
use super::microbatch::make_microbatch;
use super::objective::Objective;
use super::run_state::RunState;
use super::sample_terms::SampleTerms;
use super::step::{GradientSums, StepReport, Trainer};

/// A session with initial values that does not read data yet. A checkpoint may be loaded into it.
#[derive(Debug)]
pub struct OpenedSession {
    /// The state that training changes.
    pub(super) state: RunState,
    pub(super) sources: Sources,
    division: BatchDivision,
}

impl OpenedSession {
    /// Builds the network with its initial values. `images` is the record of the sources' images for training.
    ///
    /// # Errors
    /// When the configuration does not fit the number of ranks, the classes of the data or the memory.
    pub fn open(
        config: RunConfig,
        sources: Sources,
        images: ImagesRecord,
        context: &RunContext<'_>,
    ) -> Result<Self, TrainError> {
        let refuse = |mistakes: Vec<admiral_config::Invalid>| TrainError::Refused(format_mistakes(&mistakes));
        let world_size = context.collective.world_size() as u64;
        let division = config.divide_batch(world_size).map_err(|mistake| refuse(vec![mistake]))?;
        check_classes(&config, &sources)?;

        let (network, specs) = Network::build(&config.network_spec().map_err(refuse)?);
        let num_emas = config.optimizer.ema_rates.len();
        let memory = FlatMemory::allocate(specs, config.precision.mode.kind(), num_emas, context.device)?;
        memory.set_master(|param, values| {
            initialize(&memory.specs().as_slice()[param], param, config.run.seed, values);
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
        // A single rank has nothing to sum.
        let gradient_sums = if config.training.overlap_all_reduce && world_size > 1 {
            let bytes = config.training.bucket_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
            GradientSums::DuringBackward { bucket_bytes: bytes }
        } else {
            GradientSums::AfterBackward
        };
        let mut trainer = Trainer::new(
            network,
            memory,
            objective,
            config.optimizer.clone(),
            loss_scale,
            config.run.seed,
            gradient_sums,
            context.kernels.clone(),
            context.phases.clone(),
        )?;
        trainer.on_nan = config.training.on_nan;
        let state = RunState { config, trainer, timestep_sampler, images };
        Ok(Self { state, sources, division })
    }

    /// Connects the ranks' GPUs with NCCL and starts the loader for the samples from the trainer's step up to
    /// `last_step`. Every rank calls it, after all ranks have opened their sessions. Returns once all ranks have started.
    ///
    /// # Errors
    /// When the ranks cannot reach each other, or the system of any rank cannot start a thread.
    pub fn start(mut self, context: &RunContext<'_>, last_step: u64) -> Result<Session, Ending> {
        // Not agreed on: a rank that fails here cannot reach the others, and ends alone.
        if let Some(nccl) = open_nccl(&self.state.config, context)? {
            self.state.trainer.use_nccl(nccl);
        }
        agree(context.collective, self.start_loader(context, last_step), TrainError::exit_code)
    }

    fn start_loader(self, context: &RunContext<'_>, last_step: u64) -> Result<Session, TrainError> {
        let Self { state, sources, division } = self;
        let data = &state.config.data;
        let reader = SampleReader::new(sources.train.clone(), state.config.sample_spec(data.random_crop));
        let rank = context.collective.rank() as u64;
        let passes = division.passes(rank, state.trainer.counters.step, last_step);
        let loader = Loader::start(reader, data.num_workers, data.prefetch, passes)?;
        Ok(Session { state, sources, division, loader, num_skipped_images: 0, broken_images: Vec::new() })
    }
}

/// Opens NCCL if the network computes on GPUs. If it cannot be used, the reason is logged once and gradients are summed
/// through the host.
fn open_nccl(config: &RunConfig, context: &RunContext<'_>) -> Result<Option<NcclReducer>, CollectiveError> {
    let (Device::Cuda(ordinal), true) = (context.device, context.collective.world_size() > 1) else {
        return Ok(None);
    };
    let timeouts = config.launch.timeouts();
    // A little longer than the launcher's timeout, so that a launcher, if there is one, decides which rank is at fault.
    let patience = timeouts.stall + timeouts.silence;
    match NcclReducer::open(context.collective, context.gpus, ordinal, patience, context.phases.clone())? {
        Ok(nccl) => Ok(Some(nccl)),
        Err(reason) => {
            if context.collective.rank() == 0 {
                tracing::warn!(
                    "gradients are summed through the host, over MPI, because NCCL cannot be used: {reason}"
                );
            }
            Ok(None)
        }
    }
}

/// A session that takes steps.
#[derive(Debug)]
pub struct Session {
    /// The state that training changes.
    pub state: RunState,
    /// Images of this rank that could not be decoded and were replaced.
    pub num_skipped_images: u64,
    /// Broken images that this rank met for the first time, if they are listed.
    pub broken_images: Vec<BrokenImage>,
    sources: Sources,
    division: BatchDivision,
    loader: Loader,
}

impl Session {
    /// The images of the run.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Returns how the samples of a step are divided over the ranks.
    #[must_use]
    pub fn division(&self) -> BatchDivision {
        self.division
    }

    /// Makes [`step`](Self::step) stop waiting for samples soon after `is_cancelled` returns true.
    pub fn give_up_when(&mut self, is_cancelled: impl Fn() -> bool + Send + 'static) {
        self.loader.give_up_when(is_cancelled);
    }

    /// Calls `tell` with the name of the image that has been read for the longest time, while [`step`](Self::step) waits for
    /// more than a second; with an empty name when the wait is over.
    pub fn tell_awaited(&mut self, tell: impl Fn(&str) + Send + 'static) {
        self.loader.tell_awaited(tell);
    }

    /// Takes one step with the next samples.
    ///
    /// # Errors
    /// When there are no steps left, the data cannot be read, the ranks cannot reach each other, or training diverged.
    pub fn step(&mut self, context: &RunContext<'_>) -> Result<StepReport, TrainError> {
        let Self { state, num_skipped_images, broken_images, division, loader, .. } = self;
        let RunState { config, trainer, timestep_sampler, .. } = state;
        let step = trainer.counters.step + 1;
        let mut damage =
            context.faults.as_ref().and_then(|faults| Damaged::find(&trainer.memory, faults.damage(step)?));
        let mut next = |_| {
            let (mut batch, _) =
                loader.next()?.ok_or_else(|| TrainError::Refused("the run has no steps left".into()))?;
            *num_skipped_images += batch.num_skipped;
            broken_images.append(&mut batch.broken);
            let microbatch = make_microbatch(&mut batch, timestep_sampler, config, context.device);
            if let Some(damage) = damage.take() {
                damage.strike();
            }
            loader.keep(batch);
            Ok(microbatch)
        };
        context.phases.begin_step(step);
        let num_passes = division.accumulation as usize;
        let mut report = trainer.step(num_passes, division.global_batch, &mut next, context.collective)?;
        if timestep_sampler.learns() {
            let losses = context.collective.all_gather(&encode_losses(&report.samples))?;
            learn(timestep_sampler, &losses);
        }
        report.seconds = context.phases.end_step();
        Ok(report)
    }
}

/// Encodes the timesteps and losses of a rank's samples, from which a timestep sampler learns.
pub(super) fn encode_losses(samples: &SampleTerms) -> Vec<u8> {
    let encode = |(timestep, loss): (i64, f64)| timestep.to_le_bytes().into_iter().chain(loss.to_le_bytes());
    samples.unweighted_losses().flat_map(encode).collect()
}

/// Lets a timestep sampler learn from the [encoded losses](encode_losses) of every rank, in rank order.
pub(super) fn learn(timestep_sampler: &mut TimestepSampler, losses: &[Vec<u8>]) {
    timestep_sampler.update(losses.iter().flat_map(|bytes| bytes.chunks_exact(16)).map(decode_loss));
}

/// Decodes the timestep and the loss of a sample.
fn decode_loss(bytes: &[u8]) -> (i64, f64) {
    let (mut timestep, mut loss) = ([0; 8], [0; 8]);
    timestep.copy_from_slice(&bytes[..8]);
    loss.copy_from_slice(&bytes[8..16]);
    (i64::from_le_bytes(timestep), f64::from_le_bytes(loss))
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
            "model.num_classes is {wanted}, but the data have {found} classes{}; set it to {found}",
            match sources.train.class_names() {
                [] => String::new(),
                names => format!(": {}", list_names(names)),
            }
        )));
    }
    // Each source numbers its own classes, so the classes can only be the same if their number is the same.
    let validation = sources.validation.as_ref().map_or(found, |validation| validation.num_classes());
    if config.task == Task::Classifier && validation != found {
        return Err(TrainError::Refused(format!(
            "the validation images have {validation} classes, the training images {found}; check data.validation_path \
             and data.validation_label_path"
        )));
    }
    Ok(())
}
