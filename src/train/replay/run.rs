//! The course of a replay: restores the checkpoint, takes the steps after it, and checks the step in question.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use admiral_checkpoint::{Catalog, Checkpoint, find_checkpoint};
use admiral_comm::{FaultsConfig, Single};
use admiral_config::{Validate, format_mistakes};
use admiral_contract::BatchDivision;
use admiral_data::{Loader, OnChangedImages, SampleReader};
use admiral_storage::StoreOptions;
use tch::Tensor;

use crate::context::{RankContext, RunContext};
use crate::ops;
use crate::run_config::{DeviceChoice, RunConfig};
use crate::train::black_box::{Capsule, Number, RankRecord, Reason};
use crate::train::error::TrainError;
use crate::train::gradient_norms::gradient_norms;
use crate::train::loss_scale::Verdict;
use crate::train::microbatch::make_microbatch;
use crate::train::objective::Microbatch;
use crate::train::run_state::RunState;
use crate::train::same_images::images_record;
use crate::train::schedule::learning_rate;
use crate::train::session::{OpenedSession, encode_losses, learn};
use crate::train::state::{check_same_run, restore};

use super::divisions::Divisions;
use super::finder::Finder;
use super::ranks::{RanksStep, run_ranks};
use super::report::{Comparison, ReplayReport};
use super::sample_files::save_sample;

/// The number of steps between two lines that tell how far a replay is.
const PROGRESS_STEPS: u64 = 50;

/// The most default folders for the files of replays of one capsule.
const MAX_FOLDERS: usize = 1000;

/// What to replay.
#[derive(Debug)]
pub struct ReplayRequest {
    /// The path of the capsule, a file or its folder.
    pub path: PathBuf,
    /// The capsule.
    pub capsule: Capsule,
    /// The step to check, from 0, if it is not that of the capsule.
    pub at: Option<u64>,
    /// A checkpoint in place of the one that the capsule names.
    pub checkpoint: Option<String>,
    /// The device, if it is not that of the run's configuration.
    pub device: Option<DeviceChoice>,
    /// The number of threads on a CPU; 0 is all cores.
    pub threads: usize,
    /// A new folder for what is found, if it is not beside the capsule.
    pub out: Option<PathBuf>,
}

fn refuse<T>(message: String) -> Result<T, TrainError> {
    Err(TrainError::Refused(message))
}

/// Replays a step in one process.
///
/// # Errors
/// When the capsule, the checkpoint or the images cannot be used, the files cannot be written, or an operation fails.
pub fn replay(request: &ReplayRequest, rank: RankContext<'_>) -> Result<ReplayReport, TrainError> {
    let capsule = &request.capsule;
    if rank.collective.world_size() > 1 {
        return refuse("a replay runs in one process, without mpirun".into());
    }
    let at = request.at.unwrap_or(capsule.step);
    let division = capsule.division().map_err(TrainError::Refused)?;
    let config = configuration(request, division)?;
    let stores = config.checkpoint.store_options(&rank.environment.clouds);
    let checkpoint = open_checkpoint(request, &config, &stores)?;
    let first_step = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.manifest().training.step);
    if at < first_step {
        return refuse(format!(
            "step {at} comes before the checkpoint of step {first_step} that the replay starts from; name an earlier one \
             with --checkpoint"
        ));
    }
    if at > capsule.step {
        return refuse(format!("step {at} comes after step {}, at which the capsule was written", capsule.step));
    }
    check_out(request)?;
    let location = location_of_checkpoints(request, &config);
    let divisions = Divisions::find(capsule, division, first_step, location.as_deref(), &stores);
    let sources = admiral_data::open(&config.data, config.run.seed, &stores)?;
    let images = images_record(&*sources.train);
    if images != capsule.images && config.data.on_changed_images == OnChangedImages::Stop {
        return refuse(format!(
            "{} has other images than the run had: {} images, then {}",
            config.data.path, images.num_images, capsule.images.num_images
        ));
    }
    let context = RunContext::open(rank, &config)?;
    context.log_kernels();
    let mut session = OpenedSession::open(config, sources, images, &context)?;
    if let Some(checkpoint) = &checkpoint {
        check_same_run(&session.state, checkpoint)?;
        restore(&mut session, checkpoint, &Single)?;
    }
    let mut replay = Replay { session, divisions, context: &context };
    // Created before the steps, which may take hours.
    let folder = create_out(request)?;
    let report =
        replay.go_to(at).and_then(|()| replay.check(&request.capsule, checkpoint.map(|_| first_step), folder.clone()));
    if report.is_err() {
        // Only if it is still empty.
        let _ = std::fs::remove_dir(&folder);
    }
    report
}

/// Returns the configuration of the run, for one process.
fn configuration(request: &ReplayRequest, division: BatchDivision) -> Result<RunConfig, TrainError> {
    let shown = request.path.display();
    let config: Result<RunConfig, _> = serde_json::from_value(request.capsule.configuration.clone());
    let mut config =
        config.map_err(|error| TrainError::Refused(format!("{shown}: its configuration cannot be read: {error}")))?;
    let mistakes = config.validate();
    if !mistakes.is_empty() {
        return refuse(format!("{shown}: {}", format_mistakes(&mistakes)));
    }
    if config.training.global_batch != division.global_batch || config.run.seed != request.capsule.seed {
        return refuse(format!("{shown}: its configuration does not fit its other fields"));
    }
    config.run.device = request.device.unwrap_or(config.run.device);
    config.run.num_threads = request.threads;
    // A pass has as many samples as on a rank of the run.
    config.training.microbatch = division.microbatch;
    // Only faults of the images are a property of the step.
    let FaultsConfig { enabled, bad_value, bad_sample, .. } = config.faults;
    config.faults = FaultsConfig { enabled, bad_value, bad_sample, ..FaultsConfig::default() };
    Ok(config)
}

/// Returns where the run's checkpoints are, also in a run's folder that was moved; `None` if the capsule names none.
fn location_of_checkpoints(request: &ReplayRequest, config: &RunConfig) -> Option<String> {
    let place = request.capsule.start.checkpoint.as_ref()?;
    // RUN/black-box/step-.../capsule.json
    let capsule = std::path::absolute(folder_of(&request.path)).unwrap_or_else(|_| request.path.clone());
    let beside = capsule.ancestors().nth(2).map(|run| run.join("checkpoints"));
    let beside = beside.filter(|folder| config.checkpoint.url.is_none() && folder.is_dir());
    Some(beside.map_or_else(|| place.store.clone(), |folder| folder.display().to_string()))
}

/// Opens the checkpoint to start from: the one that the user names, or that of the capsule.
fn open_checkpoint(
    request: &ReplayRequest,
    config: &RunConfig,
    stores: &StoreOptions,
) -> Result<Option<Checkpoint>, TrainError> {
    if let Some(location) = &request.checkpoint {
        return Ok(Some(find_checkpoint(location, stores)?));
    }
    let (Some(place), Some(location)) = (&request.capsule.start.checkpoint, location_of_checkpoints(request, config))
    else {
        return Ok(None);
    };
    let checkpoint = Catalog::open(&location, stores).and_then(|catalog| catalog.checkpoint(place.step));
    checkpoint.map(Some).map_err(|error| {
        TrainError::Refused(format!(
            "the checkpoint of step {} that the capsule starts from cannot be opened: {error}; name another one of this run \
             with --checkpoint",
            place.step
        ))
    })
}

/// Returns the folder of a capsule.
fn folder_of(capsule: &Path) -> &Path {
    if capsule.is_dir() { capsule } else { capsule.parent().unwrap_or(Path::new(".")) }
}

/// Checks that the folder for the files is new.
fn check_out(request: &ReplayRequest) -> Result<(), TrainError> {
    match &request.out {
        Some(out) if out.exists() => refuse(format!("--out {}: it exists already; name a new folder", out.display())),
        _ => Ok(()),
    }
}

/// Creates the folder for the files.
fn create_out(request: &ReplayRequest) -> Result<PathBuf, TrainError> {
    let error =
        |path: &Path, source| TrainError::Refused(format!("{}: {source}; name a folder with --out", path.display()));
    if let Some(out) = &request.out {
        std::fs::create_dir_all(out).map_err(|source: std::io::Error| error(out, source))?;
        return Ok(out.clone());
    }
    for number in 1..=MAX_FOLDERS {
        let folder = folder_of(&request.path).join(format!("replay-{number}"));
        match std::fs::create_dir(&folder) {
            Err(source) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
            created => return created.map(|()| folder.clone()).map_err(|source| error(&folder, source)),
        }
    }
    refuse("there are too many replays beside the capsule; name a folder with --out".into())
}

/// A replay in progress.
struct Replay<'a> {
    session: OpenedSession,
    divisions: Divisions,
    context: &'a RunContext<'a>,
}

impl Replay<'_> {
    /// Takes the steps up to `last`. Stops before a step in which training diverges.
    fn go_to(&mut self, last: u64) -> Result<(), TrainError> {
        let first = self.session.state.trainer.counters.step;
        let mut loader = self.loader(first, last)?;
        for step in first..last {
            let RanksStep { sums, samples, .. } = self.run(step, &mut loader, None)?;
            let RunState { trainer, timestep_sampler, config, .. } = &mut self.session.state;
            let masters: Vec<&Tensor> = trainer.memory.segments().iter().map(|segment| &segment.master).collect();
            let norms = ops::norms(&self.context.kernels, &sums, &masters)?;
            let norm = f64::try_from(norms.get(0))? / trainer.counters.loss_scale.factor();
            let rate = learning_rate(&config.optimizer, step);
            if trainer.finish_step(&sums, norm, rate)? == Verdict::Diverged {
                tracing::warn!("the replay diverges at step {step} already, before step {last}");
                return Ok(());
            }
            if timestep_sampler.learns() {
                learn(timestep_sampler, &samples.iter().map(encode_losses).collect::<Vec<_>>());
            }
            if (step + 1 - first).is_multiple_of(PROGRESS_STEPS) {
                tracing::info!("step {} of {last} replayed", step + 1);
            }
        }
        Ok(())
    }

    /// Reads the samples of the steps, rank after rank.
    fn loader(&self, first: u64, last: u64) -> Result<Loader, TrainError> {
        let OpenedSession { state, sources, .. } = &self.session;
        let (divisions, data) = (self.divisions.clone(), &state.config.data);
        let reader = SampleReader::new(sources.train.clone(), state.config.sample_spec(data.random_crop));
        let ranks = move |step| {
            let division = divisions.at(step);
            (0..division.world_size).flat_map(move |rank| division.passes(rank, step, step + 1))
        };
        Ok(Loader::start(reader, data.num_workers, data.prefetch, (first..last).flat_map(ranks))?)
    }

    /// Computes the gradients of the next step, which has the number `step`.
    fn run(&self, step: u64, loader: &mut Loader, finder: Option<&Finder>) -> Result<RanksStep, TrainError> {
        let RunState { trainer, timestep_sampler, config, .. } = &self.session.state;
        let mut next = |_, _| -> Result<Microbatch, TrainError> {
            let (mut batch, _) =
                loader.next()?.ok_or_else(|| TrainError::Bug("the replay has no samples left".into()))?;
            Ok(make_microbatch(&mut batch, timestep_sampler, config, self.context.device))
        };
        run_ranks(trainer, self.divisions.at(step), &mut next, finder)
    }

    /// Computes the gradients of the next step with checks, and reports what is found.
    fn check(
        mut self,
        capsule: &Capsule,
        checkpoint: Option<u64>,
        folder: PathBuf,
    ) -> Result<ReplayReport, TrainError> {
        let trainer = &mut self.session.state.trainer;
        let step = trainer.counters.step;
        let bad_parameters: Vec<String> = trainer.memory.bad_values().into_iter().map(str::to_owned).collect();
        let finder = Finder::new(trainer.memory.specs());
        trainer.memory.set_probe(Arc::new(finder.clone()));
        let found = self.run(step, &mut self.loader(step, step + 1)?, Some(&finder))?;
        let (forward, backward) = finder.found().map_err(TrainError::Bug)?;
        let trainer = &self.session.state.trainer;
        let factor = trainer.counters.loss_scale.factor();
        let norms: Vec<f64> =
            gradient_norms(&trainer.memory, &found.sums)?.into_iter().map(|norm| norm / factor).collect();
        let losses: Vec<f64> = found.samples.iter().flat_map(|rank| rank.term("loss")).map(|&x| f64::from(x)).collect();
        let loss = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        let norm = norms.iter().map(|norm| norm * norm).sum::<f64>().sqrt();
        let is_of_capsule = step == capsule.step;
        let came_again = is_of_capsule.then(|| match capsule.reason {
            Reason::NotFinite => !norm.is_finite(),
            Reason::LossJump => {
                let bound = self.session.state.config.training.loss_jump_factor.unwrap_or(1.0);
                capsule.median_loss.is_none_or(|median| loss.is_nan() || loss > bound * median.0)
            }
        });
        let samples =
            [&forward, &backward].map(|found| found.as_ref().and_then(|found| found.sample).map(|sample| sample.index));
        let mut wanted: Vec<u64> = samples.into_iter().flatten().collect();
        wanted.dedup();
        let files = wanted.into_iter().map(|index| self.save(index, step, &folder));
        let files = files.collect::<Result<Vec<_>, _>>()?.concat();
        let names = trainer.memory.specs().iter().map(|spec| spec.name.clone());
        let recorded_norms = capsule.gradients.iter().map(|gradient| gradient.norm.0);
        let recorded_losses = capsule.ranks.iter().flat_map(|rank| &rank.samples);
        let report = ReplayReport {
            step,
            capsule_step: capsule.step,
            checkpoint,
            world: self.divisions.at(step).world_size,
            device: format!("{:?}", self.context.device).to_lowercase(),
            came_again,
            bad_parameters,
            forward,
            backward,
            bad_gradients: found.bad_gradients,
            loss: Number(loss),
            gradient_norm: Number(norm),
            lg_loss_scale: trainer.counters.loss_scale.lg(),
            gradients: is_of_capsule.then(|| {
                Comparison::of(
                    names.zip(recorded_norms).zip(norms).map(|((name, recorded), norm)| (name, recorded, norm)),
                )
            }),
            losses: is_of_capsule.then(|| {
                let name = |index| format!("sample {index}");
                let pairs = recorded_losses.zip(&losses);
                Comparison::of(pairs.map(|(sample, &loss)| (name(sample.index), sample.loss.0, loss)))
            }),
            recorded: capsule.ranks.iter().enumerate().flat_map(|(rank, record)| lines_of(rank, record)).collect(),
            folder,
            files,
        };
        Ok(report)
    }

    /// Saves a sample of a step.
    fn save(&self, index: u64, step: u64, folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
        let RunState { timestep_sampler, config, .. } = &self.session.state;
        let mut loader = self.loader(step, step + 1)?;
        while let Some((mut batch, _)) = loader.next()? {
            if let Some(position) = batch.indices.iter().position(|&other| other == index) {
                let batch = make_microbatch(&mut batch, timestep_sampler, config, self.context.device);
                return save_sample(&batch, position, folder).map(Vec::from);
            }
        }
        Ok(Vec::new())
    }
}

/// Describes what a rank of the run saw that was not finite.
fn lines_of(rank: usize, record: &RankRecord) -> Vec<String> {
    let host = &record.host;
    let mut lines = Vec::new();
    if !record.bad_parameters.is_empty() {
        lines.push(format!("rank {rank} on {host}: parameters not finite: {}", record.bad_parameters.join(", ")));
    }
    if let Some(name) = &record.bad_gradient {
        lines.push(format!("rank {rank} on {host}: the gradient of {name} not finite before the sum"));
    }
    if let Some(sample) = record.samples.iter().find(|sample| !sample.loss.0.is_finite()) {
        let (index, timestep) = (sample.index, sample.timestep);
        lines.push(format!("rank {rank} on {host}: the loss of sample {index} at timestep {timestep} not finite"));
    }
    lines
}
