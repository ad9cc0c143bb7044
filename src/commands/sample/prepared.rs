//! The models of a request on their device, ready to draw.

use admiral_comm::{Collective, Ending, agree};
use admiral_random::Stream;
use serde_json::{Value, json};
use tch::Kind;

use crate::context::{RankContext, RunContext};
use crate::diffusion::SolverPlan;
use crate::model::Task;
use crate::run_config::{PrecisionMode, RunConfig, SamplingConfig};
use crate::sample::{Error, Guidance, LoadedModel, OpenedModel, Stage, Stages, Weights};

use super::opened::{OpenedGuidance, OpenedStage, OpenedStages};
use super::options::{DrawingOptions, Temperature};

/// A model that draws or enlarges images, on its device.
#[derive(Debug)]
struct LoadedStage {
    model: LoadedModel,
    solver: SolverPlan,
}

/// What guides the first model.
#[derive(Debug)]
enum LoadedGuidance {
    None,
    Classifier { classifier: LoadedModel, scale: f64 },
    Free { null_class: i64, scale: f64 },
    Auto { worse: LoadedModel, scale: f64 },
}

/// All models of a request, on their device.
pub(super) struct Prepared<'a> {
    pub(super) context: RunContext<'a>,
    first: LoadedStage,
    guidance: LoadedGuidance,
    upsampler: Option<LoadedStage>,
    noise_temperature: f64,
    /// How the first model samples.
    pub(super) sampling: SamplingConfig,
}

/// Returns the context in which the models of a request run. Every rank calls it.
///
/// # Errors
/// When this rank has no such device.
pub(super) fn open_context<'a>(
    rank: RankContext<'a>,
    options: &DrawingOptions,
    trained: &RunConfig,
) -> Result<RunContext<'a>, Error> {
    options.compute.device.open_context(rank, trained)
}

/// Returns the precision in which the networks compute: that of the options, else on GPUs that of training.
pub(super) fn precision(options: &DrawingOptions, trained: &RunConfig, context: &RunContext<'_>) -> PrecisionMode {
    options.compute.precision(trained, context)
}

/// Returns the settings that are not those of a model.
pub(super) fn settings(
    options: &DrawingOptions,
    precision: PrecisionMode,
    batch_size: u64,
) -> Vec<(&'static str, Value)> {
    let temperature = match options.temperature {
        None => json!(null),
        Some(Temperature::Noise(value)) => json!({"noise": value}),
        Some(Temperature::Epsilon(value)) => json!({"epsilon": value}),
    };
    vec![
        ("seed", json!(options.seed)),
        ("batch_size", json!(batch_size)),
        ("precision", json!(precision)),
        ("temperature", temperature),
    ]
}

impl<'a> Prepared<'a> {
    /// Reads the weights of all models. Every rank calls it.
    ///
    /// # Errors
    /// When they cannot be read, with the same error on every rank.
    pub(super) fn load(
        opened: OpenedStages,
        options: &DrawingOptions,
        precision: PrecisionMode,
        context: RunContext<'a>,
    ) -> Result<Self, Ending> {
        // This is logged here and not when the context is opened, because a sweep opens the contexts of all its cells before
        // it draws the first one.
        context.log_kernels();
        let sampling = opened.first.sampling.clone();
        let load = |model: OpenedModel| load(model, precision.kind(), &context);
        let load_forward = |model: OpenedModel| load_forward(model, precision.kind(), &context);
        let load_stage = |stage: OpenedStage| {
            Ok::<_, Ending>(LoadedStage { model: load_forward(stage.model)?, solver: stage.solver })
        };
        let first = load_stage(opened.first)?;
        let guidance = match opened.guidance {
            OpenedGuidance::None => LoadedGuidance::None,
            OpenedGuidance::Classifier { classifier, scale } => {
                LoadedGuidance::Classifier { classifier: load(classifier)?, scale }
            }
            OpenedGuidance::Free { null_class, scale } => LoadedGuidance::Free { null_class, scale },
            OpenedGuidance::Auto { worse, scale } => LoadedGuidance::Auto { worse: load_forward(worse)?, scale },
        };
        let upsampler = opened.upsampler.map(load_stage).transpose()?;
        let noise_temperature = match options.temperature {
            Some(Temperature::Noise(temperature)) => temperature,
            Some(Temperature::Epsilon(_)) | None => 1.0,
        };
        Ok(Self { context, first, guidance, upsampler, noise_temperature, sampling })
    }

    /// Returns the models that images pass through.
    pub(super) fn stages(&self) -> Stages<'_> {
        let guidance = match &self.guidance {
            LoadedGuidance::None => Guidance::None,
            LoadedGuidance::Classifier { classifier, scale } => {
                Guidance::Classifier { classifier: weights(classifier), scale: *scale }
            }
            LoadedGuidance::Free { null_class, scale } => Guidance::Free { null_class: *null_class, scale: *scale },
            LoadedGuidance::Auto { worse, scale } => Guidance::Auto { worse: weights(worse), scale: *scale },
        };
        let first = Stage { guidance, ..self.stage(&self.first) };
        Stages { first, upsampler: self.upsampler.as_ref().map(|stage| self.stage(stage)) }
    }

    fn stage<'s>(&'s self, stage: &'s LoadedStage) -> Stage<'s> {
        let network = &stage.model.config.model;
        // An upsampler has the same noise alone and in a stack.
        let is_upsampler = stage.model.config.task == Task::SuperResolution;
        let stream = if is_upsampler { Stream::Upsampling } else { Stream::Sampling };
        Stage {
            model: weights(&stage.model),
            kernels: &self.context.kernels,
            solver: &stage.solver,
            guidance: Guidance::None,
            noise_temperature: self.noise_temperature,
            stream,
            size: network.image_size,
            channels: network.image_channels,
        }
    }
}

/// Returns the network of a model with its parameters.
pub(in crate::commands) fn weights(model: &LoadedModel) -> Weights<'_> {
    Weights { network: &model.network, params: &model.params }
}

/// Reads the weights of a model, those of its torso as `torso`. Every rank calls it.
///
/// # Errors
/// When they cannot be read, with the same error on every rank.
pub(in crate::commands) fn load(
    model: OpenedModel,
    torso: Kind,
    context: &RunContext<'_>,
) -> Result<LoadedModel, Ending> {
    let collective: &dyn Collective = context.collective;
    agree(collective, model.load(torso, context.device, collective), Error::exit_code)
}

/// Reads the weights of a model that only runs forward, those of its torso as `torso`. Every rank calls it.
///
/// # Errors
/// As for [`load`].
pub(in crate::commands) fn load_forward(
    model: OpenedModel,
    torso: Kind,
    context: &RunContext<'_>,
) -> Result<LoadedModel, Ending> {
    let model = load(model, torso, context)?;
    Ok(LoadedModel { params: model.params.for_inference(&context.kernels), ..model })
}
