//! How a run draws images itself: for its grids and for its evaluations.

use admiral_random::Stream;

use crate::context::RunContext;
use crate::diffusion::SolverPlan;
use crate::model::{Params, Task};
use crate::run_config::RunConfig;
use crate::sample::{Guidance, Stage, Weights};

use super::error::TrainError;
use super::session::Session;

/// Prepares the solver that the configuration names.
///
/// # Errors
/// [`TrainError::Refused`] if an option of the sampler is invalid.
pub(super) fn solver(config: &RunConfig) -> Result<SolverPlan, TrainError> {
    let solver = config.sampling.solver_plan(&config.diffusion);
    solver.map_err(|error| TrainError::Refused(format!("sampling.{}: {error}", error.field())))
}

/// Returns the run's network with the values of an average, or of the masters, as `admiral sample` draws with it.
pub(super) fn stage<'a>(
    session: &'a Session,
    context: &'a RunContext<'_>,
    params: &'a Params,
    solver: &'a SolverPlan,
) -> Stage<'a> {
    let config = &session.state.config;
    Stage {
        model: Weights { network: &session.state.trainer.network, params },
        kernels: &context.kernels,
        solver,
        guidance: Guidance::None,
        noise_temperature: 1.0,
        stream: if config.task == Task::SuperResolution { Stream::Upsampling } else { Stream::Sampling },
        size: config.model.image_size,
        channels: config.model.image_channels,
    }
}
