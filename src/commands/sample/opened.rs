//! The models of a request and everything that is decided before their weights are read.

use std::path::Path;

use admiral_config::{Invalid, Validate, format_mistakes, parse};
use admiral_samples::Latents;
use admiral_storage::{StoreOptions, hex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::diffusion::{Prediction, Sampler, SolverOption, SolverOptions as Options, SolverPlan};
use crate::model::Task;
use crate::run_config::{RunConfig, SamplingConfig};
use crate::sample::{Error, Identity, OpenedModel};

use super::super::text::counted;
use super::options::{DrawingOptions, GuidanceKind, Temperature};
use super::preset::Preset;

/// A model that draws or enlarges images, with its solver.
#[derive(Debug)]
pub(super) struct OpenedStage {
    pub(super) model: OpenedModel,
    pub(super) sampling: SamplingConfig,
    pub(super) solver: SolverPlan,
}

/// What guides the first model.
#[derive(Debug)]
pub(super) enum OpenedGuidance {
    None,
    Classifier { classifier: OpenedModel, scale: f64 },
    Free { null_class: i64, scale: f64 },
    Auto { worse: OpenedModel, scale: f64 },
}

/// All models of a request.
#[derive(Debug)]
pub(super) struct OpenedStages {
    pub(super) first: OpenedStage,
    pub(super) guidance: OpenedGuidance,
    pub(super) upsampler: Option<OpenedStage>,
    /// What the first model starts from in place of noise.
    pub(super) latents: Option<Latents>,
    /// The number of classes from which the images' classes are chosen: those of the model, or else of the classifier.
    pub(super) num_classes: Option<i64>,
}

/// The section `sampling`, as a document.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SamplingDocument {
    sampling: SamplingConfig,
}

impl Validate for SamplingDocument {
    fn validate(&self) -> Vec<Invalid> {
        // It needs the diffusion process: see `OpenedStage::new`.
        Vec::new()
    }
}

impl OpenedStages {
    /// Opens the checkpoints, and checks that they fit each other.
    ///
    /// # Errors
    /// When a checkpoint cannot be opened, an option is invalid, or models do not fit each other.
    pub(super) fn open(checkpoint: &str, options: &DrawingOptions, stores: &StoreOptions) -> Result<Self, Error> {
        let preset = Preset::of(options)?;
        let model = OpenedModel::open(checkpoint, options.weights.as_deref(), stores)?;
        if model.config.task == Task::Classifier {
            return refuse(format!("{} is a classifier, which cannot draw images", model.url()));
        }
        let epsilon_temperature = match options.temperature {
            Some(Temperature::Epsilon(temperature)) => temperature,
            Some(Temperature::Noise(_)) | None => 1.0,
        };
        let latents = options.latents.as_deref().map(|path| open_latents(path, &model)).transpose()?;
        let mut overrides = preset.overrides(options)?;
        if let Some(latents) = &latents {
            // First, so that the user's count.
            overrides.splice(0..0, decoding(latents));
        }
        let first = OpenedStage::new(model, &overrides, epsilon_temperature)?;
        if let Some(latents) = &latents {
            check_decoding(latents, &first.sampling)?;
        }
        let sampler = first.sampling.sampler;
        if options.solver.respacing.is_some() && !sampler.takes(SolverOption::TimestepRespacing) {
            return refuse(format!("--respacing: {sampler} does not visit chosen timesteps; give a number of --steps"));
        }
        let scale = options.scale.or(preset.scale());
        let guidance = open_guidance(options, scale, &first.model, stores)?;
        let num_classes = match &guidance {
            OpenedGuidance::Classifier { classifier, .. } => classifier.config.model.num_classes,
            _ => None,
        };
        let num_classes = first.model.config.model.num_classes.or(num_classes);
        let upsampler = match &options.upsampler {
            Some(location) => {
                let overrides = preset.upsampler_overrides(options)?;
                Some(open_upsampler(location, options, overrides, (&first, num_classes), epsilon_temperature, stores)?)
            }
            None => None,
        };
        let is_noisy = [Some(&first), upsampler.as_ref()].into_iter().flatten().any(OpenedStage::uses_noise);
        if matches!(options.temperature, Some(Temperature::Noise(_))) && !is_noisy {
            return refuse(format!(
                "--temperature noise: {sampler} uses no noise in its steps; choose another --sampler"
            ));
        }
        Ok(Self { first, guidance, upsampler, latents, num_classes })
    }

    /// Returns the model that the images come from.
    pub(super) fn last(&self) -> &OpenedStage {
        self.upsampler.as_ref().unwrap_or(&self.first)
    }

    /// Returns what the images depend on besides seed, classes, batch and precision.
    pub(super) fn settings(&self) -> Vec<(&'static str, Value)> {
        let guidance = match &self.guidance {
            OpenedGuidance::None => json!(null),
            OpenedGuidance::Classifier { classifier, scale } => guided("classifier", *scale, classifier.identity()),
            OpenedGuidance::Free { scale, .. } => json!({"kind": "free", "scale": scale}),
            OpenedGuidance::Auto { worse, scale } => guided("auto", *scale, worse.identity()),
        };
        let mut settings = vec![
            ("checkpoint", json!(self.first.model.identity())),
            ("sampling", solver_fields(&self.first)),
            ("guidance", guidance),
        ];
        if let Some(upsampler) = &self.upsampler {
            settings.push(("upsampler", json!(upsampler.model.identity())));
            settings.push(("upsampler_sampling", solver_fields(upsampler)));
        }
        if let Some(latents) = &self.latents {
            settings.push(("latents", json!(latents.digest())));
        }
        settings
    }
}

fn guided(kind: &str, scale: f64, identity: Identity) -> Value {
    json!({"kind": kind, "scale": scale, "checkpoint": identity})
}

/// Returns what images depend on: the fields of the section, and the steps that follow from them. Defaults of the solvers may
/// change with the version of the program.
fn solver_fields(stage: &OpenedStage) -> Value {
    let mut value = json!(stage.sampling);
    let solver = stage.solver.start();
    let mut hash = Sha256::new();
    for level in solver.levels() {
        hash.update(format!("{:e} {:e} {:e}\n", level.model_timestep, level.alpha, level.sigma));
    }
    let orders: Vec<usize> = (0..solver.num_steps()).map(|index| solver.order(index)).collect();
    hash.update(format!("{orders:?} {}", solver.num_evaluations()));
    if let Some(fields) = value.as_object_mut() {
        // The batch has its own setting.
        for other in ["samples_per_class", "max_classes", "batch_size"] {
            fields.remove(other);
        }
        let steps = hex(&hash.finalize()[..8]);
        fields.insert("hash_of_steps".into(), json!(steps));
    }
    value
}

impl OpenedStage {
    /// Whether a step of the solver uses noise.
    fn uses_noise(&self) -> bool {
        let solver = self.solver.start();
        (0..solver.num_steps()).any(|index| solver.uses_noise(index))
    }

    fn new(model: OpenedModel, overrides: &[String], epsilon_temperature: f64) -> Result<Self, Error> {
        let sampling = overridden(&model.config.sampling, overrides)?;
        let diffusion = &model.config.diffusion;
        let mistakes = sampling.validate(diffusion);
        if !mistakes.is_empty() {
            return refuse(format_mistakes(&mistakes));
        }
        if epsilon_temperature != 1.0 && diffusion.predict != Prediction::Epsilon {
            return refuse(format!("--temperature epsilon: {} does not predict the noise", model.url()));
        }
        let solver_options = Options { epsilon_temperature, ..sampling.solver_options() };
        let solver = SolverPlan::new(sampling.sampler, &solver_options, diffusion)
            .map_err(|error| Error::Refused(format!("sampling.{}: {error}", error.field())))?;
        Ok(Self { model, sampling, solver })
    }
}

fn refuse<T>(message: String) -> Result<T, Error> {
    Err(Error::Refused(message))
}

/// Applies overrides to the section.
fn overridden(trained: &SamplingConfig, overrides: &[String]) -> Result<SamplingConfig, Error> {
    let apply = |section: &SamplingConfig| {
        let document = json!({"sampling": section}).to_string();
        parse::<SamplingDocument>("the checkpoint's configuration", &document, overrides)
            .map(|document| document.sampling)
            .map_err(|error| Error::Refused(error.to_string()))
    };
    let section = apply(trained)?;
    if section.sampler == trained.sampler { Ok(section) } else { apply(&trained.with_sampler(section.sampler)) }
}

/// Opens the latents from which a model starts.
fn open_latents(path: &Path, model: &OpenedModel) -> Result<Latents, Error> {
    model.check_task(Task::Diffusion, "--latents")?;
    let latents = Latents::open(path)?;
    let (network, [channels, height, width]) = (&model.config.model, latents.shape());
    let (size, depth) = (network.image_size, network.image_channels);
    if [channels as i64, height as i64, width as i64] != [depth, size, size] {
        return refuse(format!(
            "--latents: those of {} have {height} x {width} pixels and {}; this model draws {size} x {size} pixels and {}",
            path.display(),
            counted(channels as u64, "channel"),
            counted(depth as u64, "channel")
        ));
    }
    if latents.encoding().checkpoint != json!(model.identity()) {
        tracing::warn!("the latents of {} were encoded with other weights than those that decode them", path.display());
    }
    Ok(latents)
}

/// Returns overrides of the section `sampling` that decode latents: ddim without noise on their timesteps.
fn decoding(latents: &Latents) -> [String; 3] {
    let respacing = json!(latents.encoding().respacing);
    ["sampling.sampler=ddim".into(), format!("sampling.timestep_respacing={respacing}"), "sampling.eta=0.0".into()]
}

/// Checks that sampling starts at the noise level of latents.
fn check_decoding(latents: &Latents, sampling: &SamplingConfig) -> Result<(), Error> {
    if sampling.sampler != Sampler::DDIM {
        return refuse(format!("--latents: they are decoded by ddim, and not by {}", sampling.sampler));
    }
    let (encoded, asked) = (&latents.encoding().respacing, &sampling.timestep_respacing);
    if asked != encoded {
        return refuse(format!(
            "--latents: they were encoded with --respacing {encoded:?}, and are decoded with the same, not with {asked:?}"
        ));
    }
    Ok(())
}

/// Opens a classifier that guides a model. `weights` is as in [`OpenedModel::open`].
///
/// # Errors
/// When it cannot be opened, or does not fit the model.
pub(in crate::commands) fn open_classifier(
    location: &str,
    weights: Option<&str>,
    model: &OpenedModel,
    stores: &StoreOptions,
) -> Result<OpenedModel, Error> {
    let classifier = OpenedModel::open(location, weights, stores)?;
    classifier.check_task(Task::Classifier, "--guidance classifier")?;
    check_fit(model, &classifier, true)?;
    Ok(classifier)
}

/// Checks the scale of a guidance.
///
/// # Errors
/// When it is no number, negative, or too large.
pub(in crate::commands) fn check_scale(scale: f64) -> Result<(), Error> {
    if (0.0..=1000.0).contains(&scale) {
        return Ok(());
    }
    refuse(format!("--scale: is {scale}; it must lie in [0, 1000]"))
}

fn open_guidance(
    options: &DrawingOptions,
    scale: Option<f64>,
    model: &OpenedModel,
    stores: &StoreOptions,
) -> Result<OpenedGuidance, Error> {
    let Some(kind) = &options.guidance else { return Ok(OpenedGuidance::None) };
    let Some(scale) = scale else {
        return refuse("--guidance: say how strong with --scale, or with a --preset that has a scale".into());
    };
    check_scale(scale)?;
    match kind {
        GuidanceKind::Classifier(location) => {
            let classifier = open_classifier(location, options.guidance_weights.as_deref(), model, stores)?;
            Ok(OpenedGuidance::Classifier { classifier, scale })
        }
        GuidanceKind::Free => {
            let trained = &model.config.model;
            let Some(null_class) = trained.null_class() else {
                return refuse(format!(
                    "--guidance free: {} was trained with model.class_dropout = {}; a model learns to draw without a \
                     class only if it is above 0",
                    model.url(),
                    trained.class_dropout
                ));
            };
            Ok(OpenedGuidance::Free { null_class, scale })
        }
        GuidanceKind::Auto(location) => {
            let worse = OpenedModel::open(location, options.guidance_weights.as_deref(), stores)?;
            worse.check_task(model.config.task, "--guidance auto")?;
            check_fit(model, &worse, false)?;
            Ok(OpenedGuidance::Auto { worse, scale })
        }
    }
}

/// Checks that a model can guide another: the same images, classes and noise.
fn check_fit(model: &OpenedModel, guide: &OpenedModel, is_classifier: bool) -> Result<(), Error> {
    let fields = |config: &RunConfig| {
        let (network, diffusion) = (&config.model, &config.diffusion);
        let mut fields = vec![
            ("model.image_size", json!(network.image_size)),
            ("model.image_channels", json!(network.image_channels)),
            ("model.num_classes", json!(network.num_classes)),
            ("diffusion.noise_schedule", json!(diffusion.noise_schedule)),
            ("diffusion.diffusion_steps", json!(diffusion.diffusion_steps)),
            ("diffusion.rescale_timesteps", json!(diffusion.rescale_timesteps)),
        ];
        if !is_classifier {
            fields.push(("model.small_size", json!(network.small_size)));
            fields.push(("diffusion.predict", json!(diffusion.predict)));
            fields.push(("diffusion.variance", json!(diffusion.variance)));
        }
        fields
    };
    let is_free =
        |field: &str| is_classifier && field == "model.num_classes" && model.config.model.num_classes.is_none();
    let differences: Vec<String> = (fields(&model.config).into_iter().zip(fields(&guide.config)))
        .filter(|((field, own), (_, other))| own != other && !is_free(field))
        .map(|((field, own), (_, other))| format!("{field} is {own} in the model and {other} there"))
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    refuse(format!("--guidance: {} does not fit {}: {}", guide.url(), model.url(), differences.join("; ")))
}

fn open_upsampler(
    location: &str,
    options: &DrawingOptions,
    mut overrides: Vec<String>,
    (base, num_classes): (&OpenedStage, Option<i64>),
    epsilon_temperature: f64,
    stores: &StoreOptions,
) -> Result<OpenedStage, Error> {
    base.model.check_task(Task::Diffusion, "--upsampler")?;
    let model = OpenedModel::open(location, options.upsampler_weights.as_deref(), stores)?;
    model.check_task(Task::SuperResolution, "--upsampler")?;
    let (small, large) = (&base.model.config.model, &model.config.model);
    if large.small_size != Some(small.image_size) || large.image_channels != small.image_channels {
        return refuse(format!(
            "--upsampler: {} enlarges images of {} pixels and {}, but {} draws {} pixels and {}",
            model.url(),
            large.small_size.unwrap_or(0),
            counted(large.image_channels as u64, "channel"),
            base.model.url(),
            small.image_size,
            counted(small.image_channels as u64, "channel")
        ));
    }
    if large.num_classes.is_some() && large.num_classes != num_classes {
        return refuse(format!(
            "--upsampler: {} has {} classes, but the images of {} have {}",
            model.url(),
            large.num_classes.unwrap_or(0),
            base.model.url(),
            num_classes.map_or_else(|| "none".to_owned(), |classes| classes.to_string())
        ));
    }
    // Both stages draw the same batches.
    overrides.push(format!("sampling.batch_size={}", base.sampling.batch_size));
    OpenedStage::new(model, &overrides, epsilon_temperature)
}
