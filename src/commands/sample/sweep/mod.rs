//! `admiral sweep`: jobs of the same images with different settings, and their table.

mod cells;
mod evaluation;
mod plots;
mod series;
mod spec;
mod table;

use admiral_comm::{Ending, ExitCode, Failure, agree};
use admiral_samples::Job;
use admiral_storage::{Location, Store, StoreOptions};
use clap::Args;

use crate::context::RankContext;
use crate::sample::Error;
use crate::stop::Stop;

use super::job::{MESSAGES, PlannedJob, check_same};
use super::opened::OpenedGuidance;
use cells::Cell;
use evaluation::{CellEvaluation, Evaluation};
pub(in crate::commands) use series::series;
use spec::SweepSpec;
use table::{Evaluated, Row};

/// The largest number of pixels of the picture, which is in memory as a whole. Pillow opens no larger images.
const MAX_PICTURE_PIXELS: u64 = 178_956_970;

/// The arguments of `admiral sweep`.
#[derive(Debug, Clone, Args)]
pub struct SweepArguments {
    /// The file that describes the sweep, in YAML: docs/sweeps.md has its fields
    spec: std::path::PathBuf,
    /// Override a field: --set num=64, --set "lists.scales=[1, 2]"
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    overrides: Vec<String>,
}

/// A cell whose job can be drawn.
struct PlannedCell<'a> {
    row: Row,
    job: PlannedJob<'a>,
}

/// Draws all cells that are not finished, one after the other. Every rank calls it.
///
/// # Errors
/// When a cell cannot be drawn. A cell that is invalid is refused before anything is drawn. The [`Ending`] says whether the
/// ranks leave together.
pub(in crate::commands) fn sweep(arguments: &SweepArguments, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let collective = rank.collective;
    let stop = Stop::default();
    agree(collective, stop.on_signals(MESSAGES), |_| ExitCode::Node)?;
    let spec: SweepSpec =
        agree(collective, admiral_config::load(&arguments.spec, &arguments.overrides), |_| ExitCode::Config)?;
    sweep_of(&spec, &stop, rank)
}

/// Draws and evaluates all cells of a sweep that are not finished. Every rank calls it.
///
/// # Errors
/// As for [`sweep`].
fn sweep_of(spec: &SweepSpec, stop: &Stop, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let (collective, code) = (rank.collective, Error::exit_code);
    agree(collective, check_same(spec, collective), code)?;
    let stores = rank.environment.store_options();
    let cells = agree(collective, open_cells(spec, &stores), code)?;
    let mut planned = Vec::new();
    for cell in &cells {
        planned.push(plan(cell, spec, rank, &stores).map_err(|ending| naming(cell, ending))?);
    }
    agree(collective, check_shapes(&planned, spec.strip_images), code)?;

    let mut evaluation = match (&spec.evaluate, planned.first()) {
        (Some(settings), Some(cell)) => Some(CellEvaluation::open(settings, spec, cell.job.settings().shape, rank)?),
        _ => None,
    };

    let is_root = collective.rank() == 0;
    let opened =
        if is_root { open_table(spec, evaluation.as_ref(), &stores, &mut planned).map(Some) } else { Ok(None) };
    let table = agree(collective, opened, code)?;
    let width = planned.iter().map(|cell| cell.row.name.len()).max().unwrap_or(0);
    if is_root {
        table::print_header(width, evaluation.is_some());
    }
    // Rank 0 has read the table of an earlier start.
    let mut is_evaluated: Vec<u8> = planned.iter().map(|cell| u8::from(cell.row.evaluated.is_some())).collect();
    collective.broadcast(0, &mut is_evaluated)?;
    let mut rows: Vec<(Row, bool)> = planned.iter().map(|cell| (cell.row.clone(), false)).collect();
    for (index, PlannedCell { row, job }) in planned.into_iter().enumerate() {
        let ended = job.run(stop, rank).map_err(|ending| naming(&cells[index], ending))?;
        if ended.code != ExitCode::Finished {
            return Ok(ended.code);
        }
        let measured = (ended.drawn > 0).then(|| ended.drawn as f64 / ended.elapsed.as_secs_f64());
        let mut row = Row { images_per_second: measured.or(row.images_per_second), ..row };
        rows[index] = (row.clone(), true);
        if let Some(evaluation) = evaluation.as_mut().filter(|_| is_evaluated[index] == 0) {
            // The speed is not lost if the evaluation is interrupted.
            agree(collective, write_table(table.as_ref(), &rows), code)?;
            match evaluation.of(&row.location, stop).map_err(|ending| naming(&cells[index], ending))? {
                Evaluation::Finished(evaluated) => row.evaluated = evaluated.map(|evaluated| *evaluated),
                Evaluation::Stopped => return Ok(ExitCode::Preempted),
            }
            rows[index] = (row.clone(), true);
        }
        if is_root {
            row.print(width);
        }
        agree(collective, write_table(table.as_ref(), &rows), code)?;
    }
    let rows: Vec<Row> = rows.into_iter().map(|(row, _)| row).collect();
    if is_root {
        table::print_fewest_evaluations(&rows);
    }
    let drawn = table.map_or(Ok(()), |OpenedTable { store, .. }| {
        plots::write(&store, &rows)?;
        table::write_picture(&store, &rows, spec.strip_images, &stores)
    });
    agree(collective, drawn, code)?;
    Ok(ExitCode::Finished)
}

/// Where the table goes.
struct OpenedTable {
    store: Store,
    /// The rows of cells of earlier sweeps in the same place, which this sweep does not have.
    others: Vec<Row>,
}

/// Writes the table of the rows that are finished, and of other sweeps' cells, on rank 0. Cells with a speed were finished
/// before, and are not forgotten if this sweep is killed.
fn write_table(table: Option<&OpenedTable>, rows: &[(Row, bool)]) -> Result<(), Error> {
    let Some(OpenedTable { store, others }) = table else { return Ok(()) };
    let known = rows.iter().filter(|(row, is_finished)| *is_finished || row.images_per_second.is_some());
    table::write(store, known.map(|(row, _)| row).chain(others).cloned().collect())
}

/// Opens the checkpoints and returns the cells.
fn open_cells(spec: &SweepSpec, stores: &StoreOptions) -> Result<Vec<Cell>, Error> {
    let lists = spec.all_lists()?;
    cells::cells(spec, &lists, &cells::open_checkpoints(spec, stores)?)
}

/// Decides everything about the job of a cell. Every rank calls it.
fn plan<'a>(
    cell: &Cell,
    spec: &SweepSpec,
    rank: RankContext<'a>,
    stores: &StoreOptions,
) -> Result<PlannedCell<'a>, Ending> {
    let options = cell.options(spec);
    let job = PlannedJob::new(&options, spec.num, rank)?;
    agree(rank.collective, check_place(&options.out, &job, stores), Error::exit_code)?;
    let opened = job.opened();
    let evaluations = opened.first.solver.start().num_evaluations();
    let is_guided = match &opened.guidance {
        OpenedGuidance::None => false,
        OpenedGuidance::Classifier { .. } => true,
        OpenedGuidance::Free { scale, .. } => *scale != 0.0,
        OpenedGuidance::Auto { scale, .. } => *scale != 1.0,
    };
    let row = Row {
        name: cell.name(),
        checkpoint: cell.checkpoint.url.clone(),
        step: cell.checkpoint.identity.step,
        weights: cell.checkpoint.identity.weights.clone(),
        sampler: cell.sampler.to_string(),
        timesteps: cell.timesteps.to_string(),
        scale: cell.scale,
        num: spec.num,
        evaluations,
        guidance_evaluations: if is_guided { evaluations } else { 0 },
        images_per_second: None,
        location: options.out,
        evaluated: None,
    };
    Ok(PlannedCell { row, job })
}

/// Checks that no other job is where the job of a cell goes.
fn check_place(out: &str, job: &PlannedJob<'_>, stores: &StoreOptions) -> Result<(), Error> {
    let location = Location::parse(out).map_err(admiral_samples::Error::from)?;
    let found = Store::open(&location, stores).map_err(admiral_samples::Error::from);
    match found.and_then(|store| Job::open(&store)) {
        Ok(there) => Ok(there.check_settings(job.settings())?),
        Err(admiral_samples::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Checks that the images of all cells fit into one picture.
fn check_shapes(planned: &[PlannedCell<'_>], columns: u64) -> Result<(), Error> {
    let Some(first) = planned.first() else { return Ok(()) };
    let shape = first.job.settings().shape;
    if let Some(other) = planned.iter().find(|cell| cell.job.settings().shape != shape) {
        return Err(Error::Refused(format!(
            "{} draws images of {:?} (height, width, channels), and {} draws {shape:?}; sweep over models of one size",
            other.row.name,
            other.job.settings().shape,
            first.row.name
        )));
    }
    let pixels =
        [planned.len() as u64, columns, shape[0] as u64, shape[1] as u64].into_iter().fold(1_u64, u64::saturating_mul);
    if pixels > MAX_PICTURE_PIXELS {
        return Err(Error::Refused(format!(
            "strip_images: is {columns}; the picture of {} cells has {pixels} pixels then, and at most \
             {MAX_PICTURE_PIXELS} are drawn",
            planned.len()
        )));
    }
    Ok(())
}

/// Opens the location of the table, and takes the speeds, and evaluations with the same settings, from the table of an
/// earlier start.
///
/// # Errors
/// When the place is that of something else, or other cells there were evaluated in another way.
fn open_table(
    spec: &SweepSpec,
    evaluation: Option<&CellEvaluation<'_>>,
    stores: &StoreOptions,
    planned: &mut [PlannedCell<'_>],
) -> Result<OpenedTable, Error> {
    let location = Location::parse(&spec.out).map_err(admiral_samples::Error::from)?;
    let store = Store::create(&location, stores).map_err(admiral_samples::Error::from)?;
    let names = store.wait(store.files_right_under("")).map_err(admiral_samples::Error::from)?;
    for (file, owner) in [("job.json", "a sampling job"), ("config.yaml", "a training run")] {
        if names.iter().any(|name| name == file) {
            let url = store.url("");
            return Err(Error::Refused(format!("out: {url} is the place of {owner}; name another one for the sweep")));
        }
    }
    let earlier = table::read(&store)?;
    for PlannedCell { row, .. } in planned.iter_mut() {
        let Some(same) = earlier.iter().find(|other| other.is_same(row)) else { continue };
        row.images_per_second = same.images_per_second;
        let is_wanted = |evaluated: &Evaluated| evaluation.is_some_and(|evaluation| evaluation.is_same(evaluated));
        row.evaluated = same.evaluated.clone().filter(is_wanted);
    }
    let is_other = |row: &Row| planned.iter().all(|cell| cell.row.name != row.name);
    let others: Vec<Row> = earlier.into_iter().filter(is_other).collect();
    if let Some(evaluation) = evaluation {
        // Metrics of different references in one table would be compared.
        for row in &others {
            let difference = row.evaluated.as_ref().and_then(|evaluated| evaluation.difference_from(evaluated));
            if let Some(difference) = difference {
                return Err(Error::Refused(format!(
                    "evaluate: {} has {}, which was evaluated in another way ({difference}); name another place for the \
                     sweep",
                    store.url(""),
                    row.name
                )));
            }
        }
    }
    Ok(OpenedTable { store, others })
}

/// Adds the name of the cell to the message of its failure.
fn naming(cell: &Cell, ending: Ending) -> Ending {
    let name = |Failure { code, message }: Failure| Failure { code, message: format!("{}: {message}", cell.name()) };
    match ending {
        Ending::Together(failure) => Ending::Together(name(failure)),
        Ending::Alone(failure) => Ending::Alone(name(failure)),
    }
}
