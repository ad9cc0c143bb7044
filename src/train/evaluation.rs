//! Evaluation in the loop: each average draws images, which are compared with a reference. Nothing of the run's state
//! changes, so that training takes the same steps with and without it.

use std::path::Path;

use admiral_checkpoint::{Evaluation, WeightsEvaluation};
use admiral_comm::{Collective, CollectiveError, Ending, Phase, agree, any};
use admiral_evaluation::{
    FeatureTables, ImageCount, ImageSet, MeasureOptions, OpenedSide, PictureShape, Report, Side, check_comparison,
    digest_of_pixels, measure,
};
use admiral_storage::{Store, StoreOptions, hex};
use serde_json::json;
use sha2::{Digest, Sha256};
use tch::Tensor;

use crate::context::RunContext;
use crate::diffusion::SolverPlan;
use crate::evaluate::{
    Error, ExtractContext, Extracted, FeatureExtractor, FeatureSource, append_features, create_work, extract_missing,
    missing_parts, parts_of,
};
use crate::run_config::{EvaluationConfig, RunConfig, SamplingConfig};
use crate::sample::{ImageBatches, Labels, SampleRequest, Stage, Stages, gather_batches};
use crate::stop::Stop;

use super::drawing;
use super::error::TrainError;
use super::session::Session;

/// The folder of stored features in a run's folder.
const FOLDER: &str = "evaluation";

/// The most images of a reference. With Inception, their features take 2 GB of memory on rank 0.
const MAX_REFERENCE: u64 = 100_000;

/// What the run is evaluated with.
#[derive(Debug)]
pub struct Evaluator {
    config: EvaluationConfig,
    /// A fingerprint of what the values depend on besides the weights.
    settings: String,
    solver: SolverPlan,
    extractor: Box<dyn FeatureExtractor>,
    /// The reference, on rank 0.
    reference: Option<Side>,
    /// Whether what misleads has been logged.
    is_warned: bool,
}

/// The weights that an evaluation was of, and its result.
pub type Evaluated = (String, Report);

impl Evaluator {
    /// Opens the network of the features and computes those of the reference, which are kept in the run's folder. Every
    /// rank calls it. Returns `None` if the configuration asks for no evaluation.
    ///
    /// # Errors
    /// When the reference or the weights cannot be read, with the same message on every rank.
    pub fn open(
        session: &Session,
        folder: &Path,
        context: &RunContext<'_>,
        stop: &Stop,
    ) -> Result<Option<Self>, Ending> {
        let run = &session.state.config;
        let config = run.evaluation.clone();
        if config.interval == 0 {
            return Ok(None);
        }
        let (collective, code) = (context.collective, Error::exit_code);
        let stores = context.environment.store_options();
        let file = config.inception.as_ref().map(Path::new).or(context.environment.inception.as_deref());
        let extractor = FeatureSource::new(&config.features, file, None).open(&stores, context)?;
        let side = agree(collective, open_reference(session, &*extractor, &stores), code)?;
        let solver = agree(collective, drawing::solver(run), TrainError::exit_code)?;
        let location = config.work.clone().unwrap_or_else(|| folder.join(FOLDER).display().to_string());
        let store = agree(collective, create_work(&location, "evaluation.work", &stores), code)?;
        let reference = features_of(side, &*extractor, &store, context, stop)?;
        // What all evaluations need of the reference is computed once.
        let prepared = reference.map(|side| side.prepared(extractor.identity(), config.num_images)).transpose();
        let reference = agree(collective, prepared.map_err(Error::from), code)?;
        let settings = settings_of(run, &*extractor, reference.as_ref());
        Ok(Some(Self { config, settings, solver, extractor, reference, is_warned: false }))
    }

    /// Returns what is recorded beside a checkpoint.
    #[must_use]
    pub fn record(&self, results: &[Evaluated]) -> Evaluation {
        let metrics =
            |report: &Report| report.metrics.iter().filter_map(|row| Some((row.name.clone(), row.exact?))).collect();
        let of =
            |(weights, report): &Evaluated| WeightsEvaluation { weights: weights.clone(), metrics: metrics(report) };
        Evaluation {
            settings: self.settings.clone(),
            num_images: self.config.num_images,
            results: results.iter().map(of).collect(),
        }
    }

    /// Whether the run is evaluated after this step.
    #[must_use]
    pub fn is_due(&self, step: u64, is_last: bool) -> bool {
        step.is_multiple_of(self.config.interval) || is_last
    }

    /// Draws images with each average, or with the masters if the run keeps none, and compares them. Every rank calls it.
    /// Returns the results on rank 0, and nothing on the others, nor if the run is asked to stop meanwhile.
    ///
    /// # Errors
    /// When the images cannot be compared, or the ranks cannot reach each other.
    pub fn measure(
        &mut self,
        session: &Session,
        context: &RunContext<'_>,
        stop: &Stop,
    ) -> Result<Vec<Evaluated>, TrainError> {
        let run = &session.state.config;
        let memory = &session.state.trainer.memory;
        let mut weights: Vec<(String, _)> = run
            .optimizer
            .ema_rates
            .iter()
            .enumerate()
            .map(|(index, rate)| (format!("ema-{rate}"), memory.ema_params(index)))
            .collect();
        if weights.is_empty() {
            weights.push(("master".into(), memory.master_params()));
        }
        let mut results = Vec::new();
        for (number, (name, params)) in weights.into_iter().enumerate() {
            context.phases.enter(Phase::Sample, number);
            let stage = drawing::stage(session, context, &params, &self.solver);
            let Some(tables) = self.drawn(stage, run, context.collective, stop)? else { return Ok(Vec::new()) };
            let Some(reference) = &self.reference else { continue };
            let location = format!("step {} of {name}", session.state.trainer.counters.step);
            let shape = shape_of(run);
            let samples = Side::drawn(location, shape, tables);
            let options = MeasureOptions { adm: false, only_main: true, ..MeasureOptions::default() };
            match measure(&samples, reference, self.extractor.identity(), &options) {
                Ok(report) => {
                    for warning in report.warnings.iter().filter(|_| !self.is_warned) {
                        tracing::warn!("evaluation: {warning}");
                    }
                    self.is_warned = true;
                    results.push((name, report));
                }
                // The run is worth more than a number about it.
                Err(error) => tracing::warn!("{}: {error}", samples.location),
            }
        }
        Ok(results)
    }

    /// Draws images on all ranks and computes their features. Returns them on rank 0, and nothing if a rank is asked to stop.
    fn drawn(
        &self,
        stage: Stage<'_>,
        run: &RunConfig,
        collective: &dyn Collective,
        stop: &Stop,
    ) -> Result<Option<FeatureTables>, TrainError> {
        let (num, batch_size) = (self.config.num_images, run.sampling.batch_size.min(self.config.num_images));
        // Each class equally often.
        let labels = run.model.num_classes.map_or(Labels::None, |classes| Labels::Cycle((0..classes).collect()));
        let mut request =
            SampleRequest { seed: self.config.seed, labels, count: num, latents: None, low_res: None, batch_size };
        let stages = Stages { first: stage, upsampler: None };
        let [height, width, channels] = stages.image_shape().map(|side| side as i64);
        let identity = self.extractor.identity().clone();
        let mut tables = FeatureTables::empty(&identity);
        let mut digests = String::new();
        let compute = |images: std::ops::Range<u64>| -> Result<Vec<u8>, Interrupted> {
            // Every rank is here in every round.
            if any(collective, stop.is_asked())? {
                return Err(Interrupted::Stopped);
            }
            if images.is_empty() {
                return Ok(Vec::new());
            }
            let count = (images.end - images.start) as i64;
            let batch = ImageBatches::new(stages, &mut request, images).next().transpose().map_err(TrainError::from)?;
            let Some(batch) = batch else { return Ok(Vec::new()) };
            let pixels = Tensor::from_slice(&batch.pixels).view([count, height, width, channels]);
            let features = self.extractor.extract(&pixels).map_err(TrainError::from)?;
            let mut own = FeatureTables::empty(&identity);
            append_features(&mut own, &features);
            own.pixels = digest_of_pixels(&batch.pixels);
            Ok(own.to_bytes())
        };
        let mut damaged = None;
        let gathered = gather_batches(num, batch_size, collective, compute, |images, bytes| {
            match FeatureTables::from_bytes(&bytes, images.end - images.start, &identity) {
                Some(own) => {
                    digests += &own.pixels;
                    tables.append(own);
                }
                None => damaged = Some(images),
            }
        });
        match gathered {
            Ok(()) => {}
            Err(Interrupted::Stopped) => return Ok(None),
            Err(Interrupted::Failed(error)) => return Err(error),
        }
        if let Some(images) = damaged {
            return Err(TrainError::Bug(format!("the features of images {images:?} have another length")));
        }
        tables.pixels = digest_of_pixels(digests.as_bytes());
        Ok(Some(tables))
    }
}

/// Why drawing ends early.
enum Interrupted {
    /// A rank is asked to stop.
    Stopped,
    Failed(TrainError),
}

impl From<TrainError> for Interrupted {
    fn from(error: TrainError) -> Self {
        Self::Failed(error)
    }
}

impl From<CollectiveError> for Interrupted {
    fn from(error: CollectiveError) -> Self {
        Self::Failed(error.into())
    }
}

/// Returns the fingerprint of what the values depend on besides the weights.
fn settings_of(run: &RunConfig, extractor: &dyn FeatureExtractor, reference: Option<&Side>) -> String {
    let of = |side: &Side| {
        let statistics = side.statistics.as_ref().map(|statistics| statistics.sha256.clone());
        (side.tables.as_ref().map(|tables| tables.pixels.clone()), statistics)
    };
    let config = &run.evaluation;
    // Fields of grids do not change the images.
    let sampling = SamplingConfig { samples_per_class: 0, max_classes: 0, ..run.sampling.clone() };
    let all = json!([config.num_images, config.seed, sampling, extractor.identity(), reference.map(of)]);
    hex(Sha256::digest(all.to_string()))
}

/// Opens the reference that the configuration names.
fn open_reference(
    session: &Session,
    extractor: &dyn FeatureExtractor,
    stores: &StoreOptions,
) -> Result<OpenedSide, Error> {
    let run = &session.state.config;
    let reference = &run.evaluation.reference;
    let pictures = PictureShape { size: Some(run.model.image_size as usize), channels: extractor.channels() };
    let sources = session.sources();
    let side = match reference.as_str() {
        "training" => of_source(reference, sources.train.clone(), pictures)?,
        "validation" => {
            let source = sources.validation.clone().ok_or_else(|| {
                Error::Refused("evaluation.reference: is validation, and the run has no validation images".into())
            })?;
            of_source(reference, source, pictures)?
        }
        location => OpenedSide::open(location, pictures, stores)?,
    };
    side.check_features(extractor.identity())?;
    if let Some(images) = side.images.as_ref().filter(|images| images.num() > MAX_REFERENCE) {
        return Err(Error::Refused(format!(
            "evaluation.reference: {reference} has {} images, more than the {MAX_REFERENCE} whose features one rank keeps \
             in memory; write their statistics once with `admiral evaluate statistics`, and name that file",
            images.num()
        )));
    }
    let drawn = ImageCount {
        location: "the images that the run draws".into(),
        num: run.evaluation.num_images,
        shape: shape_of(run),
    };
    check_comparison(Some(&drawn), side.count().as_ref(), extractor.input())
        .map_err(|error| Error::Refused(format!("evaluation: {error}")))?;
    Ok(side)
}

fn of_source(
    name: &str,
    source: std::sync::Arc<dyn admiral_data::ImageSource>,
    pictures: PictureShape,
) -> Result<OpenedSide, Error> {
    let images = Some(ImageSet::of_source(name, source, pictures)?);
    Ok(OpenedSide { location: format!("{name} images"), images, statistics: None })
}

/// Returns height, width and channels of the images that the run draws.
fn shape_of(run: &RunConfig) -> [usize; 3] {
    [run.model.image_size as usize, run.model.image_size as usize, run.model.image_channels as usize]
}

/// Computes the features of the reference. Returns the side on rank 0.
fn features_of(
    mut side: OpenedSide,
    extractor: &dyn FeatureExtractor,
    store: &Store,
    context: &RunContext<'_>,
    stop: &Stop,
) -> Result<Option<Side>, Ending> {
    let (collective, code) = (context.collective, Error::exit_code);
    let is_root = collective.rank() == 0;
    let mut tables = None;
    if let Some(images) = &mut side.images {
        let parts = parts_of(images, extractor, store, collective)?;
        let missing = missing_parts(images, &parts, collective)?;
        if is_root && !missing.is_empty() {
            tracing::info!("computing the features of {} images of the reference, which are kept", images.num());
        }
        let with = ExtractContext { collective, phases: &context.phases, stop, progress: &|_| {} };
        if extract_missing(images, extractor, &parts, &missing, &with)? == Extracted::Preempted {
            return Ok(None);
        }
        let read = if is_root { parts.read_all().map(Some) } else { Ok(None) };
        tables = agree(collective, read.map_err(Error::from), code)?;
    }
    Ok(is_root.then(|| Side::new(side, tables)))
}
