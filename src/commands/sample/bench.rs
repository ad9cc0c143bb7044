//! The models and images of `admiral bench sample`.

use admiral_comm::{Ending, agree};

use crate::bench::sample::{self, Drawing, SampleBenchOptions};
use crate::context::RankContext;
use crate::sample::{Error, SampleRequest};

use super::opened::OpenedStages;
use super::options::DrawingOptions;
use super::prepared::{Prepared, open_context, precision};
use super::start::Start;
use super::{classes, job};

/// Opens the models and measures how fast they draw. Every rank calls it.
///
/// # Errors
/// When a checkpoint cannot be read, an option does not fit it, or an image cannot be drawn.
pub(in crate::commands) fn bench(
    checkpoint: &str,
    drawing: &DrawingOptions,
    options: &SampleBenchOptions,
    rank: RankContext<'_>,
) -> Result<(), Ending> {
    let collective = rank.collective;
    let code = Error::exit_code;
    let num_batches = options.batches_of_rank() * collective.world_size() as u64;
    let (opened, request) = agree(collective, open(checkpoint, drawing, num_batches, rank), code)?;
    agree(collective, job::check_same(&opened.settings(), collective), code)?;
    let context = agree(collective, open_context(rank, drawing, &opened.first.model.config), code)?;
    let precision = precision(drawing, &opened.first.model.config, &context);
    let prepared = Prepared::load(opened, drawing, precision, context)?;
    let sampler = prepared.sampling.sampler.to_string();
    let drawing = Drawing { stages: prepared.stages(), request, sampler, precision };
    sample::run(drawing, options, &prepared.context)
}

/// Opens the models and decides which images to draw.
fn open(
    checkpoint: &str,
    drawing: &DrawingOptions,
    num_batches: u64,
    rank: RankContext<'_>,
) -> Result<(OpenedStages, SampleRequest), Error> {
    let stores = rank.environment.store_options();
    let opened = OpenedStages::open(checkpoint, drawing, &stores)?;
    let config = &opened.first.model.config;
    let batch_size = opened.first.sampling.batch_size;
    let count = num_batches * batch_size;
    let start = Start::open(drawing.low_res.as_deref(), config, Some(count), &stores)?;
    let start = start.or_latents(opened.latents.as_ref(), Some(count))?;
    let (labels, _) = classes::for_job(drawing, config, opened.num_classes, count, &start, &stores)?;
    let Start { latents, low_res, .. } = start;
    let request = SampleRequest { seed: drawing.seed, labels, count, latents, low_res, batch_size };
    Ok((opened, request))
}
