//! A grid of images in one PNG file.

use std::path::Path;

use admiral_comm::{Ending, agree};
use admiral_telemetry::{Grid, write_file};

use crate::context::RankContext;
use crate::sample::{Error, GivenImages, SampleRequest, gather_images};

use super::super::model_options::check_out;
use super::opened::OpenedStages;
use super::options::SampleOptions;
use super::prepared::{Prepared, open_context, precision};
use super::start::Start;
use super::{classes, job};

/// The pixels between two images of the grid.
const PADDING: usize = 2;

/// Draws and writes the grid. Every rank calls it.
///
/// # Errors
/// When a checkpoint cannot be read, an option does not fit it, or the file cannot be written.
pub(super) fn run(options: &SampleOptions, rank: RankContext<'_>) -> Result<(), Ending> {
    let collective = rank.collective;
    let code = Error::exit_code;
    let opened = agree(collective, open(options, rank), code)?;
    let (opened, mut request) = opened;
    agree(collective, job::check_same(&opened.settings(), collective), code)?;
    let context = agree(collective, open_context(rank, &options.drawing, &opened.first.model.config), code)?;
    let precision = precision(&options.drawing, &opened.first.model.config, &context);
    let (step, columns) = (opened.first.model.identity(), opened.first.sampling.samples_per_class as usize);
    let prepared = Prepared::load(opened, &options.drawing, precision, context)?;
    let stages = prepared.stages();
    let image_bytes: usize = stages.image_shape().iter().product();
    let is_root = collective.rank() == 0;
    let count = request.count;
    let mut pixels = vec![0; if is_root { image_bytes * count as usize } else { 0 }];
    let gathered = gather_images(stages, &mut request, collective, |batch| {
        let start = image_bytes * batch.first as usize;
        pixels[start..start + batch.pixels.len()].copy_from_slice(&batch.pixels);
    });
    gathered.map_err(|error| Ending::alone(error.exit_code(), &error))?;
    let written = if is_root { write(&options.out, &pixels, stages.image_shape(), columns) } else { Ok(()) };
    agree(collective, written, code)?;
    if is_root {
        println!(
            "{}: {count} samples of step {} by {} in {} steps from {}",
            options.out,
            step.step,
            prepared.sampling.sampler,
            stages.first.solver.start().num_steps(),
            step.weights,
        );
    }
    Ok(())
}

/// Opens the models and decides what to draw.
fn open(options: &SampleOptions, rank: RankContext<'_>) -> Result<(OpenedStages, SampleRequest), Error> {
    if Path::new(&options.out).extension().is_none() {
        return Err(Error::Refused(format!(
            "--out: {} does not end with .png; for many images, say how many with --num",
            options.out
        )));
    }
    check_out("--out", Path::new(&options.out), "png", rank)?;
    let stores = rank.environment.store_options();
    let mut drawing = options.drawing.clone();
    if let Some(per_class) = options.per_class {
        drawing.solver.set.push(format!("samples_per_class={per_class}"));
    }
    let opened = OpenedStages::open(&options.checkpoint, &drawing, &stores)?;
    let (config, sampling) = (&opened.first.model.config, &opened.first.sampling);
    let (large, num_classes) = (&opened.last().model.config, opened.num_classes);
    let (labels, count, start) = if let Some(latents) = &opened.latents {
        let given = (latents.num(), latents.labels());
        let labels = classes::for_latents(&options.drawing, large, sampling, num_classes, given)?;
        (labels, latents.num(), Start::default().or_latents(Some(latents), None)?)
    } else {
        let (labels, count) = classes::for_grid(&options.drawing, large, sampling, num_classes)?;
        let start = Start::open(options.drawing.low_res.as_deref(), config, Some(count), &stores)?;
        let there = start.low_res.as_ref().map_or(count, GivenImages::count);
        if options.per_class.is_some() && there < count {
            return Err(Error::Refused(format!(
                "--per-class: the grid has {count} images, but there are {there} small images; ask for fewer"
            )));
        }
        (start.grid_labels(labels, &options.drawing)?, count.min(there), start)
    };
    if let Some(num_classes) = num_classes {
        classes::check_range(&labels, num_classes)?;
    }
    let request = SampleRequest {
        seed: options.drawing.seed,
        labels,
        count,
        latents: start.latents,
        low_res: start.low_res,
        batch_size: sampling.batch_size,
    };
    Ok((opened, request))
}

fn write(path: &str, pixels: &[u8], shape: [usize; 3], columns: usize) -> Result<(), Error> {
    let png = Grid::of(pixels, shape, columns, PADDING)
        .and_then(|grid| grid.png())
        .map_err(|error| Error::Bug(error.to_string()))?;
    write_file(Path::new(path), &png).map_err(|source| Error::File { path: path.to_owned(), source })
}
