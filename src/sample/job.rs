//! A sampling job: many images in parts, on all ranks. It can be killed at any time and continued.

use std::ops::Range;
use std::time::Instant;

use admiral_comm::{Collective, Ending, Phase, PhaseTracker, agree, any};
use admiral_samples::{Job, parts_of_rank};
use admiral_telemetry::{Metric, MetricSink};

use crate::stop::Stop;

use super::error::Error;
use super::image_batches::{ImageBatches, SampleRequest, Stages};

/// What a job runs with.
pub struct JobContext<'a> {
    /// The ranks of the job.
    pub collective: &'a dyn Collective,
    /// Records what this rank does in its ledger.
    pub phases: &'a PhaseTracker,
    /// Asks the job to stop.
    pub stop: &'a Stop,
    /// Gets the progress, on rank 0.
    pub metrics: &'a dyn MetricSink,
}

/// How a job ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    /// All parts are there.
    All,
    /// The job was asked to stop. The parts that are finished are kept.
    Preempted,
}

/// A part that one rank drew.
struct DrawnPart {
    pixels: Vec<u8>,
    labels: Vec<i64>,
}

/// Draws the parts of a job that are missing. Every rank calls it, with the same `missing`.
///
/// In each round every rank draws one part, and then the ranks agree on the outcome. A rank's ledger counts the images of its
/// share: those that it draws, and on rank 0 also those that are there at the start.
///
/// # Errors
/// When a part cannot be drawn or written, with the same message on every rank, or the ranks cannot reach each other.
pub fn draw_missing(
    stages: Stages<'_>,
    request: &mut SampleRequest,
    job: &Job,
    missing: &[u64],
    context: &JobContext<'_>,
) -> Result<Drawn, Ending> {
    let JobContext { collective, phases, stop, metrics } = *context;
    let (rank, world_size) = (collective.rank(), collective.world_size());
    let settings = job.settings();
    let images_in = |parts: &[u64]| settings.images_in(parts);
    let mut done = settings.num - images_in(missing);
    let resumed = done;
    let mut own_done = if rank == 0 { resumed } else { 0 };
    let own_share = own_done + images_in(&parts_of_rank(missing, rank, world_size));
    phases.begin(own_done, false, own_share, 0);
    stop.steps_begin();
    record(metrics, done, resumed);
    for round in missing.chunks(world_size) {
        let started = Instant::now();
        let own = round.get(rank).copied();
        let drawn = match own {
            Some(part) => draw_part(stages, request, settings.images_of(part), own_done, context),
            None => Ok(None),
        };
        phases.enter(Phase::Checkpoint, 0);
        let written = drawn.and_then(|drawn| match (own, drawn) {
            (Some(part), Some(DrawnPart { pixels, labels })) => {
                job.write_part(part, &pixels, settings.has_labels.then_some(labels.as_slice()))?;
                Ok(())
            }
            _ => Ok(()),
        });
        agree(collective, written, Error::exit_code)?;
        if any(collective, stop.is_asked())? {
            return Ok(Drawn::Preempted);
        }
        done += images_in(round);
        let per_second = images_in(round) as f64 / started.elapsed().as_secs_f64();
        metrics.record(Metric::gauge("images_per_second", done, per_second));
        own_done += own.map_or(0, |part| images_in(&[part]));
        phases.begin(own_done, false, own_share, 0);
        record(metrics, done, resumed);
    }
    Ok(Drawn::All)
}

fn record(metrics: &dyn MetricSink, done: u64, resumed: u64) {
    metrics.record(Metric::counter("samples", done, (done - resumed) as f64));
    metrics.commit(done, Instant::now());
}

/// Draws the images of a part, on a rank that has finished `own_done` images before. Returns `None` if the job was asked to
/// stop meanwhile.
fn draw_part(
    stages: Stages<'_>,
    request: &mut SampleRequest,
    images: Range<u64>,
    own_done: u64,
    context: &JobContext<'_>,
) -> Result<Option<DrawnPart>, Error> {
    let mut part = DrawnPart { pixels: Vec::new(), labels: Vec::new() };
    let image_bytes: usize = stages.image_shape().iter().product();
    let mut batches = ImageBatches::new(stages, request, images);
    for number in 0.. {
        if context.stop.is_asked() {
            return Ok(None);
        }
        context.phases.begin_step(own_done + (part.pixels.len() / image_bytes) as u64);
        context.phases.enter(Phase::Sample, number);
        let Some(batch) = batches.next().transpose()? else { break };
        context.phases.end_step();
        part.pixels.extend(batch.pixels);
        part.labels.extend(batch.labels);
    }
    Ok(Some(part))
}
