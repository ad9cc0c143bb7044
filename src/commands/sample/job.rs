//! A job of many images: `admiral sample CHECKPOINT --num N --out FOLDER_OR_URL`.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use admiral_comm::{Collective, Ending, ExitCode, Phase, PhaseTracker, agree, any};
use admiral_contract::files::check_expanded;
use admiral_samples::{Job, JobSettings, parts_of_rank};
use admiral_storage::{Location, Store};
use admiral_telemetry::{Grid, MetricSink, MetricSinks, ProgressLine, TensorBoard, Terminal};
use serde_json::{Map, Value};
use tch::Device;

use crate::context::{RankContext, RunContext};
use crate::diffusion::Sampler;
use crate::run_config::PrecisionMode;
use crate::sample::{Drawn, Error, JobContext, SampleRequest, draw_missing, numbers_from_root};
use crate::stop::{Stop, StopMessages};

use super::super::text::counted;
use super::classes;
use super::opened::OpenedStages;
use super::options::{Format, SampleOptions};
use super::prepared::{Prepared, open_context, precision, settings};
use super::start::Start;

pub(super) const MESSAGES: StopMessages = StopMessages {
    asked: "asked to stop: the parts that are finished are kept",
    too_early: "asked to stop before the first image: there is nothing to keep",
    impatient: "interrupted a second time: leaving at once; the parts that are finished are kept",
    saves: false,
};

/// The images of a part, unless the options say otherwise.
const PART_IMAGES: u64 = 64;

/// How often missing or damaged parts are drawn before the job gives up.
const MAX_TURNS: usize = 3;

/// The images of the grid in TensorBoard, and of its rows.
const GRID_IMAGES: u64 = 64;
const GRID_COLUMNS: usize = 8;
/// The pixels between two images of the grid.
const PADDING: usize = 2;

/// The time between writes of TensorBoard's event file, and between progress lines where the output is no terminal.
const TELEMETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Draws what is missing of the job, and writes its files. Every rank calls it.
///
/// # Errors
/// When the images cannot be drawn or written. The [`Ending`] says whether the ranks leave together.
pub(super) fn run(options: &SampleOptions, num: u64, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let stop = Stop::default();
    agree(rank.collective, stop.on_signals(MESSAGES), |_| ExitCode::Node)?;
    let job = PlannedJob::new(options, num, rank)?;
    Ok(job.run(&stop, rank)?.code)
}

/// A job of which everything is decided. Nothing is written yet, and no weights are read.
pub(super) struct PlannedJob<'a> {
    options: SampleOptions,
    location: Location,
    opened: OpenedStages,
    request: SampleRequest,
    context: RunContext<'a>,
    precision: PrecisionMode,
    settings: JobSettings,
}

/// How a job ended without an error.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndedJob {
    /// Whether it is finished, or was asked to stop.
    pub(super) code: ExitCode,
    /// The images that were drawn since the start, by all ranks.
    pub(super) drawn: u64,
    /// The time in which they were drawn and written.
    pub(super) elapsed: Duration,
}

impl<'a> PlannedJob<'a> {
    /// Decides everything. What can be refused is refused here. Every rank calls it.
    ///
    /// # Errors
    /// When a checkpoint cannot be read, an option does not fit it, or this rank has no such device.
    pub(super) fn new(options: &SampleOptions, num: u64, rank: RankContext<'a>) -> Result<Self, Ending> {
        let (collective, code) = (rank.collective, Error::exit_code);
        let location = agree(collective, location(options), code)?;
        let (opened, request, classes) = agree(collective, open(options, num, rank), code)?;
        let part_size = agree(collective, part_size(options, request.batch_size), code)?;
        let context = agree(collective, open_context(rank, &options.drawing, &opened.first.model.config), code)?;
        let precision = precision(&options.drawing, &opened.first.model.config, &context);
        let others = settings(&options.drawing, precision, request.batch_size);
        let settings = agree(collective, job_settings(&opened, &request, part_size, classes, others), code)?;
        agree(collective, check_same(&settings.settings, collective), code)?;
        Ok(Self { options: options.clone(), location, opened, request, context, precision, settings })
    }

    /// Returns everything that the images depend on.
    pub(super) fn settings(&self) -> &JobSettings {
        &self.settings
    }

    /// Returns the models.
    pub(super) fn opened(&self) -> &OpenedStages {
        &self.opened
    }

    /// Draws what is missing, and writes the files. Every rank calls it.
    ///
    /// # Errors
    /// When the images cannot be drawn or written. The [`Ending`] says whether the ranks leave together.
    pub(super) fn run(self, stop: &Stop, rank: RankContext<'a>) -> Result<EndedJob, Ending> {
        let Self { options, location, opened, mut request, context, precision, settings } = self;
        let collective = rank.collective;
        let (is_root, code, output) = (collective.rank() == 0, Error::exit_code, admiral_samples::Error::exit_code);
        let phases = context.phases.clone();
        let (sampler, device, progress) = (opened.first.sampling.sampler, context.device, context.progress);
        let (mut unloaded, mut prepared) = (Some((opened, context)), None);
        let load = |(opened, context): (OpenedStages, RunContext<'a>)| {
            Prepared::load(opened, &options.drawing, precision, context)
        };
        // A finished job needs no weights. A new one gets no files unless its weights can be read.
        let is_new = if is_root { has_no_job(&location, rank) } else { Ok(false) };
        if any(collective, agree(collective, is_new, code)?)? {
            prepared = unloaded.take().map(load).transpose()?;
        }
        let store = agree(collective, create_store(&location, rank), code)?;
        // Rank 0 creates the job; the others find it, so that ranks that do not share the location are told.
        let created = if is_root { Job::create_or_open(&store, settings).map(Some) } else { Ok(None) };
        let created = agree(collective, created.map_err(Error::from), code)?;
        let job = match created {
            Some(job) => Ok(job),
            None => find_job(&store),
        };
        let job = agree(collective, job, code)?;

        let folder = event_folder(&options, &store);
        let board = match folder.filter(|_| is_root) {
            Some(folder) => Rc::new(TensorBoard::open(&folder, 0, TELEMETRY_INTERVAL)),
            None => Rc::new(TensorBoard::off()),
        };
        let mut ended = EndedJob { code: ExitCode::Finished, drawn: 0, elapsed: Duration::ZERO };
        let mut missing = numbers_from_root(collective, || job.missing(), output)?;
        for turn in 1.. {
            if is_root {
                log_start(&job, &missing, collective.world_size(), sampler, device);
            }
            if !missing.is_empty()
                && let Some(unloaded) = unloaded.take()
            {
                prepared = Some(load(unloaded)?);
            }
            if let Some(prepared) = &prepared {
                let metrics = sinks(is_root, &board, request.count, progress);
                let job_context = JobContext { collective, phases: &phases, stop, metrics: &metrics };
                let start = Instant::now();
                let drawn = draw_missing(prepared.stages(), &mut request, &job, &missing, &job_context)?;
                ended.elapsed += start.elapsed();
                if drawn == Drawn::Preempted {
                    return Ok(EndedJob { code: ExitCode::Preempted, ..ended });
                }
                ended.drawn += job.settings().images_in(&missing);
            }
            phases.enter(Phase::Checkpoint, 0);
            let without_png = match options.format.contains(&Format::Png) {
                true => numbers_from_root(collective, || job.missing_png(), output)?,
                false => Vec::new(),
            };
            let png = write_png(&job, &without_png, &phases, collective);
            // Nobody writes parts or PNG files any more when rank 0 cleans up.
            let mut is_damaged = any(collective, is_damaged(&png))?;
            let mut finished = png;
            if !is_damaged {
                agree(collective, finished, code)?;
                finished = if is_root { finish(&job, &options, &phases, &board) } else { Ok(()) };
                is_damaged = any(collective, self::is_damaged(&finished))?;
            }
            if !is_damaged || turn == MAX_TURNS || any(collective, stop.is_asked())? {
                agree(collective, finished, code)?;
                phases.enter(Phase::End, 0);
                return Ok(ended);
            }
            // Withdraws the damaged parts, which are drawn again.
            missing = numbers_from_root(collective, || job.verify(), output)?;
        }
        Ok(ended)
    }
}

/// Whether parts of a job have to be drawn again.
fn is_damaged(finished: &Result<(), Error>) -> bool {
    use admiral_samples::Error as Output;
    matches!(finished, Err(Error::Output(Output::Damaged { .. } | Output::Incomplete { .. })))
}

/// Opens the job that rank 0 has created.
fn find_job(store: &Store) -> Result<Job, Error> {
    Job::open(store).map_err(|error| match error {
        admiral_samples::Error::NotFound { url, .. } => Error::Refused(format!(
            "--out: rank 0 has created a job in {url}, which this rank does not see; name a folder that all hosts share, \
             or a bucket's URL"
        )),
        error => error.into(),
    })
}

/// Opens the models, and decides what to draw.
fn open(
    options: &SampleOptions,
    num: u64,
    rank: RankContext<'_>,
) -> Result<(OpenedStages, SampleRequest, Value), Error> {
    let stores = rank.environment.store_options();
    let opened = OpenedStages::open(&options.checkpoint, &options.drawing, &stores)?;
    let config = &opened.first.model.config;
    let start = Start::open(options.drawing.low_res.as_deref(), config, None, &stores)?;
    let start = start.or_latents(opened.latents.as_ref(), Some(num))?;
    if let Some(low_res) = &start.low_res
        && low_res.count() < num
    {
        return Err(Error::Refused(format!(
            "--num: is {num}, but --low-res has {} images; ask for at most as many",
            low_res.count()
        )));
    }
    let (labels, classes) = classes::for_job(&options.drawing, config, opened.num_classes, num, &start, &stores)?;
    let batch_size = opened.first.sampling.batch_size;
    if options.drawing.batch_size.is_some_and(|size| size > num) {
        // A batch is always drawn as a whole.
        return Err(Error::Refused(format!("--batch-size: is {batch_size}, more than the {num} images of --num")));
    }
    let described = serde_json::json!({"classes": classes, "low_res": start.described});
    let Start { latents, low_res, .. } = start;
    let request = SampleRequest { seed: options.drawing.seed, labels, count: num, latents, low_res, batch_size };
    Ok((opened, request, described))
}

/// Returns the number of images of a part.
fn part_size(options: &SampleOptions, batch: u64) -> Result<u64, Error> {
    let part_size = options.part_images.unwrap_or(PART_IMAGES.div_ceil(batch) * batch);
    if !part_size.is_multiple_of(batch) {
        return Err(Error::Refused(format!(
            "--part-images: is {part_size}; it must be a multiple of the {batch} images of a batch"
        )));
    }
    Ok(part_size)
}

/// Returns everything that the images depend on.
fn job_settings(
    opened: &OpenedStages,
    request: &SampleRequest,
    part_size: u64,
    classes: Value,
    others: Vec<(&'static str, Value)>,
) -> Result<JobSettings, Error> {
    let model = &opened.last().model.config.model;
    let size = model.image_size as usize;
    let all = opened.settings().into_iter().chain([("images", classes)]).chain(others);
    let settings = JobSettings {
        num: request.count,
        part_size,
        shape: [size, size, model.image_channels as usize],
        has_labels: request.labels.of(0).is_some(),
        settings: all.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>(),
    };
    settings.validate()?;
    Ok(settings)
}

/// Checks that all ranks would draw the same images.
pub(in crate::commands) fn check_same(
    settings: &impl serde::Serialize,
    collective: &dyn Collective,
) -> Result<(), Error> {
    let text = serde_json::to_vec(settings).map_err(|error| Error::Bug(error.to_string()))?;
    let all = collective.all_gather(&text)?;
    match all.iter().position(|other| *other != all[0]) {
        None => Ok(()),
        Some(rank) => Err(Error::Refused(format!(
            "rank {rank} reads another checkpoint, file or data than rank 0; give all hosts the same ones"
        ))),
    }
}

/// Returns where the job's files are.
fn location(options: &SampleOptions) -> Result<Location, Error> {
    if let Some(folder) = &options.tensorboard {
        check_expanded("--tensorboard", folder).map_err(Error::Refused)?;
    }
    if Path::new(&options.out).extension().is_some_and(|extension| extension == "npz" || extension == "png") {
        return Err(Error::Refused(format!(
            "--out: {} is a file's name; with --num, name a folder, in which the files are written",
            options.out
        )));
    }
    Ok(Location::parse(&options.out).map_err(admiral_samples::Error::from)?)
}

/// Whether no job was begun at the location. Writes nothing there.
///
/// # Errors
/// When something else is there.
fn has_no_job(location: &Location, rank: RankContext<'_>) -> Result<bool, Error> {
    let store = match Store::open(location, &rank.environment.store_options()) {
        Ok(store) => store,
        Err(admiral_storage::Error::NotFound { .. }) => return Ok(true),
        Err(error) => return Err(admiral_samples::Error::from(error).into()),
    };
    match Job::open(&store) {
        Ok(_) => Ok(false),
        Err(admiral_samples::Error::NotFound { .. }) => Ok(Job::check_vacant(&store).map(|()| true)?),
        Err(error) => Err(error.into()),
    }
}

fn create_store(location: &Location, rank: RankContext<'_>) -> Result<Store, Error> {
    Ok(Store::create(location, &rank.environment.store_options()).map_err(admiral_samples::Error::from)?)
}

/// Returns the folder of TensorBoard's event files.
fn event_folder(options: &SampleOptions, store: &Store) -> Option<PathBuf> {
    let local = match store.location() {
        Some(Location::Folder(folder)) => Some(folder.join("tensorboard")),
        _ => None,
    };
    options.tensorboard.clone().or(local)
}

fn sinks(is_root: bool, board: &Rc<TensorBoard>, num: u64, progress: &Terminal) -> MetricSinks {
    let mut sinks: Vec<Rc<dyn MetricSink>> = Vec::new();
    if is_root {
        sinks.push(Rc::clone(board) as Rc<dyn MetricSink>);
        sinks.push(Rc::new(ProgressLine::of_images(progress, num, TELEMETRY_INTERVAL)));
    }
    MetricSinks::new(sinks)
}

fn log_start(job: &Job, missing: &[u64], num_ranks: usize, sampler: Sampler, device: Device) {
    let settings = job.settings();
    tracing::info!(
        ranks = num_ranks,
        ?device,
        %sampler,
        "{} of {} missing, each of {}; they go to {}",
        missing.len(),
        if settings.num_parts() == 1 { "1 part is".to_owned() } else { format!("{} parts are", settings.num_parts()) },
        counted(settings.part_size.min(settings.num), "image"),
        job.store().url("")
    );
}

/// Writes the PNG files of this rank's share of parts.
fn write_png(job: &Job, parts: &[u64], phases: &PhaseTracker, collective: &dyn Collective) -> Result<(), Error> {
    for (number, part) in parts_of_rank(parts, collective.rank(), collective.world_size()).into_iter().enumerate() {
        phases.enter(Phase::Checkpoint, number);
        job.write_png(part)?;
    }
    Ok(())
}

/// Writes the files of a job whose parts are all there.
fn finish(job: &Job, options: &SampleOptions, phases: &PhaseTracker, board: &TensorBoard) -> Result<(), Error> {
    show_first(job, board)?;
    let has_npz = options.format.contains(&Format::Npz);
    // Reading many parts takes long. The ledger shows that it goes on.
    let manifest = job.finish(has_npz, &|part| phases.enter(Phase::Checkpoint, part))?;
    for file in &manifest.files {
        tracing::info!("{} has all {} images", job.store().url(&file.path), job.settings().num);
    }
    Ok(())
}

/// Shows the first images in TensorBoard.
fn show_first(job: &Job, board: &TensorBoard) -> Result<(), Error> {
    let part = job.read_part(0)?;
    let image = job.settings().image_bytes();
    let pixels = &part.pixels[..part.pixels.len().min(image * GRID_IMAGES as usize)];
    let grid =
        Grid::of(pixels, job.settings().shape, GRID_COLUMNS, PADDING).map_err(|error| Error::Bug(error.to_string()))?;
    board.image("samples", job.settings().num, grid);
    Ok(())
}
