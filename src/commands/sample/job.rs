//! A job of many images: `admiral sample CHECKPOINT --num N --out FOLDER_OR_URL`.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use admiral_comm::{Collective, Ending, ExitCode, Phase, agree, any};
use admiral_samples::{Job, JobSettings, parts_of_rank};
use admiral_storage::{Location, Store, StoreOptions};
use admiral_telemetry::{Grid, MetricSink, MetricSinks, ProgressLine, TensorBoard};
use serde_json::{Map, Value};

use crate::context::RankContext;
use crate::sample::{Drawn, Error, JobContext, SampleRequest, draw_missing};
use crate::stop::{Stop, StopMessages};

use super::classes;
use super::opened::OpenedStages;
use super::options::{Format, SampleOptions};
use super::prepared::{Prepared, open_context, precision, settings};
use super::start::Start;

const MESSAGES: StopMessages = StopMessages {
    asked: "asked to stop: the parts that are finished are kept",
    too_early: "asked to stop before the first image: there is nothing to keep",
    impatient: "interrupted a second time: leaving at once; the parts that are finished are kept",
};

/// The images of a part, unless the options say otherwise.
const PART_IMAGES: u64 = 64;

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
    let collective = rank.collective;
    let (is_root, code) = (collective.rank() == 0, Error::exit_code);
    let stop = Stop::default();
    agree(collective, stop.on_signals(MESSAGES), |_| ExitCode::Node)?;

    // Everything that can be refused is refused before anything is written.
    let (opened, mut request, classes) = agree(collective, open(options, num, rank), code)?;
    let context = agree(collective, open_context(rank, &options.drawing, &opened.first.model.config), code)?;
    let precision = precision(&options.drawing, &opened.first.model.config, &context);
    let wanted =
        job_settings(options, &opened, &request, classes, settings(&options.drawing, precision, request.batch_size));
    let wanted = agree(collective, wanted, code)?;
    agree(collective, check_same(&wanted.settings, collective), code)?;
    let store = agree(collective, create_store(options, rank), code)?;
    // Rank 0 creates the job; the others find it.
    let created = if is_root { Job::create_or_open(&store, wanted.clone()).map(Some) } else { Ok(None) };
    let created = agree(collective, created.map_err(Error::from), code)?;
    let job = match created {
        Some(job) => Ok(job),
        None => Job::create_or_open(&store, wanted).map_err(Error::from),
    };
    let job = agree(collective, job, code)?;

    let folder = event_folder(options, &store);
    let board = match folder.filter(|_| is_root) {
        Some(folder) => Rc::new(TensorBoard::open(&folder, 0, TELEMETRY_INTERVAL)),
        None => Rc::new(TensorBoard::off()),
    };
    let phases = context.phases.clone();
    let mut damaged_before: Option<Vec<u64>> = None;
    let prepared = Prepared::load(opened, &options.drawing, precision, context)?;
    loop {
        let missing = from_root(collective, || job.missing())?;
        if damaged_before.as_ref() == Some(&missing) && !missing.is_empty() {
            let message =
                format!("parts {missing:?} of {} are damaged again after they were drawn anew", store.url(""));
            return Err(Ending::alone(ExitCode::Store, &message));
        }
        let metrics = sinks(is_root, &board, num, &prepared);
        let job_context = JobContext { collective, phases: &phases, stop: &stop, metrics: &metrics };
        if is_root {
            log_start(&job, &missing, collective.world_size(), &prepared);
        }
        match draw_missing(prepared.stages(), &mut request, &job, &missing, &job_context)? {
            Drawn::Preempted => return Ok(ExitCode::Preempted),
            Drawn::All => {}
        }
        phases.enter(Phase::Checkpoint, 0);
        let without_png = match options.format.contains(&Format::Png) {
            true => from_root(collective, || job.missing_png())?,
            false => Vec::new(),
        };
        let finished = finish(&job, &without_png, options, collective, &board);
        // A damaged part was withdrawn, and is drawn again.
        let is_damaged = matches!(finished, Err(Error::Output(admiral_samples::Error::Damaged { .. })));
        if !any(collective, is_damaged)? {
            agree(collective, finished, code)?;
            phases.enter(Phase::End, 0);
            return Ok(ExitCode::Finished);
        }
        damaged_before = Some(missing);
    }
}

/// Opens the models, and decides what to draw.
fn open(
    options: &SampleOptions,
    num: u64,
    rank: RankContext<'_>,
) -> Result<(OpenedStages, SampleRequest, Value), Error> {
    let stores = StoreOptions { s3: rank.environment.s3.clone(), ..StoreOptions::default() };
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
    let (labels, classes) = classes::for_job(&options.drawing, config, opened.num_classes, num, &start)?;
    let batch_size = opened.first.sampling.batch_size;
    let described = serde_json::json!({"classes": classes, "low_res": start.described});
    let Start { latents, low_res, .. } = start;
    let request = SampleRequest { seed: options.drawing.seed, labels, count: num, latents, low_res, batch_size };
    Ok((opened, request, described))
}

/// Returns everything that the images depend on.
fn job_settings(
    options: &SampleOptions,
    opened: &OpenedStages,
    request: &SampleRequest,
    classes: Value,
    others: Vec<(&'static str, Value)>,
) -> Result<JobSettings, Error> {
    let batch = request.batch_size;
    let part_size = options.part_images.unwrap_or(PART_IMAGES.div_ceil(batch) * batch);
    if !part_size.is_multiple_of(batch) {
        return Err(Error::Refused(format!(
            "--part-images: is {part_size}; it must be a multiple of the {batch} images of a batch"
        )));
    }
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

fn create_store(options: &SampleOptions, rank: RankContext<'_>) -> Result<Store, Error> {
    if Path::new(&options.out).extension().is_some_and(|extension| extension == "npz" || extension == "png") {
        return Err(Error::Refused(format!(
            "--out: {} is a file's name; with --num, name a folder, in which the files are written",
            options.out
        )));
    }
    let stores = StoreOptions { s3: rank.environment.s3.clone(), ..StoreOptions::default() };
    let location = Location::parse(&options.out).map_err(admiral_samples::Error::from)?;
    Ok(Store::create(&location, &stores).map_err(admiral_samples::Error::from)?)
}

/// Returns the folder of TensorBoard's event files.
fn event_folder(options: &SampleOptions, store: &Store) -> Option<PathBuf> {
    let local = match store.location() {
        Some(Location::Folder(folder)) => Some(folder.join("tensorboard")),
        _ => None,
    };
    options.tensorboard.clone().or(local)
}

/// Returns the numbers that rank 0 finds, on every rank.
fn from_root(
    collective: &dyn Collective,
    find: impl FnOnce() -> Result<Vec<u64>, admiral_samples::Error>,
) -> Result<Vec<u64>, Ending> {
    let found = if collective.rank() == 0 { find() } else { Ok(Vec::new()) };
    let found = agree(collective, found.map_err(Error::from), Error::exit_code)?;
    let mut bytes: Vec<u8> = found.iter().flat_map(|number| number.to_le_bytes()).collect();
    collective.broadcast(0, &mut bytes)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|&number| u64::from_le_bytes(number)).collect())
}

fn sinks(is_root: bool, board: &Rc<TensorBoard>, num: u64, prepared: &Prepared<'_>) -> MetricSinks {
    let mut sinks: Vec<Rc<dyn MetricSink>> = Vec::new();
    if is_root {
        sinks.push(Rc::clone(board) as Rc<dyn MetricSink>);
        sinks.push(Rc::new(ProgressLine::of_images(prepared.context.progress, num, TELEMETRY_INTERVAL)));
    }
    MetricSinks::new(sinks)
}

fn log_start(job: &Job, missing: &[u64], num_ranks: usize, prepared: &Prepared<'_>) {
    let settings = job.settings();
    tracing::info!(
        ranks = num_ranks,
        device = ?prepared.context.device,
        sampler = %prepared.sampling.sampler,
        "{} of {} parts are missing, each of {} images; they go to {}",
        missing.len(),
        settings.num_parts(),
        settings.part_size,
        job.store().url("")
    );
}

/// Writes the files of a job whose parts are all there. Each rank writes a share of the missing PNG files.
fn finish(
    job: &Job,
    without_png: &[u64],
    options: &SampleOptions,
    collective: &dyn Collective,
    board: &TensorBoard,
) -> Result<(), Error> {
    for part in parts_of_rank(without_png, collective.rank(), collective.world_size()) {
        job.write_png(part)?;
    }
    if collective.rank() != 0 {
        return Ok(());
    }
    show_first(job, board)?;
    if options.format.contains(&Format::Npz) {
        let manifest = job.finish()?;
        for file in &manifest.files {
            tracing::info!("{} has all {} images", job.store().url(&file.path), job.settings().num);
        }
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
