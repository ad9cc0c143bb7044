//! The sample grid of a run: what the first average draws now.

use admiral_comm::Collective;
use crate::diffusion::GaussianDiffusion;
use crate::model::Task;
use crate::sample::{Request, draw_on_all_ranks, grid_labels};
use admiral_telemetry::Grid;

use super::TrainError;
use super::session::{Session, low_res_examples};

const PADDING: usize = 2;

/// Draws the grid that the configuration describes, from the first average (the masters where there is none); rank 0
/// gets it. Every rank calls it. Always the same noise, so that grids of one run can be compared.
///
/// # Errors
/// When ranks cannot be reached or the pictures make no grid.
pub fn draw_grid(session: &Session, collective: &dyn Collective) -> Result<Option<Grid>, TrainError> {
    let config = &session.config;
    let memory = &session.trainer.memory;
    let params = if config.optimizer.ema_rates.is_empty() { memory.master_params() } else { memory.ema_params(0) };
    let sampling = &config.sampling;
    let diffusion = GaussianDiffusion::new(&sampling.respaced(&config.diffusion))
        .map_err(|error| TrainError::Refused(format!("sampling.timestep_respacing: {error}")))?;
    let (labels, count) = grid_labels(config.model.num_classes, sampling.samples_per_class, sampling.max_classes);
    let (low_res, labels) = match (config.task, config.model.small_size) {
        (Task::SuperResolution, Some(small)) => {
            let (images, classes) = low_res_examples(config, session.sources().train.clone(), count, small)?;
            (Some(images), labels.map(|_| classes))
        }
        _ => (None, labels),
    };
    let request = Request {
        size: config.model.image_size,
        channels: config.model.image_channels,
        seed: config.run.seed,
        labels,
        count,
        low_res,
        batch_size: sampling.batch_size,
        method: sampling.method(),
        clip_denoised: sampling.clip_denoised,
    };
    let network = &session.trainer.network;
    let pixels = draw_on_all_ranks(network, &params, &diffusion, &request, session.device(), collective)?;
    let size = config.model.image_size as usize;
    let shape = [size, size, config.model.image_channels as usize];
    pixels
        .map(|pixels| Grid::of(&pixels, shape, sampling.samples_per_class as usize, PADDING))
        .transpose()
        .map_err(|error| TrainError::Bug(error.to_string()))
}
