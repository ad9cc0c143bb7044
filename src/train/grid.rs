//! The sample grid of a run, drawn with the first average.

use admiral_telemetry::Grid;

use crate::context::RunContext;
use crate::model::Task;
use crate::sample::{GivenImages, Labels, SampleRequest, Stages, gather_images, grid_labels, low_res_examples};

use super::drawing;
use super::error::TrainError;
use super::session::Session;

/// The pixels between two images of the grid.
const PADDING: usize = 2;

/// Draws the configured sample grid with the first average, or with the masters if the run keeps no average. Returns it
/// on rank 0. Every rank calls it. The noise is always the same, so that the grids of a run can be compared.
///
/// # Errors
/// When an option of the sampler is invalid, an image cannot be read, or the ranks cannot reach each other.
pub fn draw_grid(session: &Session, context: &RunContext<'_>) -> Result<Option<Grid>, TrainError> {
    let config = &session.state.config;
    let memory = &session.state.trainer.memory;
    let params = if config.optimizer.ema_rates.is_empty() { memory.master_params() } else { memory.ema_params(0) };
    let sampling = &config.sampling;
    let solver = drawing::solver(config)?;
    let (labels, count) = grid_labels(config.model.num_classes, sampling.samples_per_class, sampling.max_classes);
    let (low_res, labels) = match (config.task, config.model.small_size) {
        (Task::SuperResolution, Some(small)) => {
            let (images, classes) = low_res_examples(config, session.sources().train.clone(), count, small)?;
            let labels = if labels == Labels::None { labels } else { Labels::Table(classes.into()) };
            (Some(GivenImages::Images(images)), labels)
        }
        _ => (None, labels),
    };
    let batch_size = sampling.batch_size;
    let mut request = SampleRequest { seed: config.run.seed, labels, count, latents: None, low_res, batch_size };
    let first = drawing::stage(session, context, &params, &solver);
    let stages = Stages { first, upsampler: None };
    let is_root = context.collective.rank() == 0;
    let image_bytes: usize = stages.image_shape().iter().product();
    let mut pixels = vec![0; if is_root { image_bytes * count as usize } else { 0 }];
    gather_images(stages, &mut request, context.collective, |batch| {
        let start = image_bytes * batch.first as usize;
        pixels[start..start + batch.pixels.len()].copy_from_slice(&batch.pixels);
    })?;
    if !is_root {
        return Ok(None);
    }
    let grid = Grid::of(&pixels, stages.image_shape(), sampling.samples_per_class as usize, PADDING);
    grid.map(Some).map_err(|error| TrainError::Bug(error.to_string()))
}
