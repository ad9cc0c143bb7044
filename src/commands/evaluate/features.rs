//! The features of the images that are compared: computed on all ranks, and kept for the next comparison.

use std::path::{Path, PathBuf};

use admiral_comm::{Ending, agree, in_turns};
use admiral_evaluation::{FeatureParts, ImageSet, OpenedSide, PictureShape};
use admiral_storage::{Store, StoreOptions};
use admiral_telemetry::{Metric, MetricSink, ProgressLine, write_file};

use crate::context::{RankContext, RunContext};
use crate::evaluate::{
    Done, Error, ExtractContext, Extracted, FeatureExtractor, FeatureSource, create_work, extract_missing,
    missing_parts, parts_of,
};
use crate::run_config::RunConfig;
use crate::sample;
use crate::stop::Stop;

use super::super::model_options::PROGRESS_INTERVAL;
use super::super::sample::check_same;
use super::options::NetworkOptions;

/// The network of the features, and what it runs with.
pub(in crate::commands) struct Network<'a> {
    pub(in crate::commands) context: RunContext<'a>,
    pub(in crate::commands) extractor: Box<dyn FeatureExtractor>,
}

impl<'a> Network<'a> {
    /// Opens the network and reads its weights. Every rank calls it.
    ///
    /// # Errors
    /// When there are no such weights, or this rank has no such device.
    pub(in crate::commands) fn open(options: &NetworkOptions, rank: RankContext<'a>) -> Result<Self, Ending> {
        let context = options.compute.open_context(rank, &RunConfig::default()).map_err(Error::from);
        let context = agree(rank.collective, context, Error::exit_code)?;
        context.log_kernels();
        let file = options.inception.as_ref().or(rank.environment.inception.as_ref());
        let source = FeatureSource::new(&options.features, file.map(PathBuf::as_path), options.weights.as_deref());
        let extractor = source.open(&stores(rank), &context)?;
        Ok(Self { context, extractor })
    }

    /// Returns how pictures become images for this network.
    fn pictures(&self, options: &NetworkOptions) -> PictureShape {
        let size = options.size.map(|size| size as usize).or(self.extractor.image_size());
        PictureShape { size, channels: self.extractor.channels() }
    }
}

/// Returns how stores are reached.
fn stores(rank: RankContext<'_>) -> StoreOptions {
    rank.environment.store_options()
}

/// Opens a side of a comparison. Every rank calls it.
///
/// # Errors
/// When nothing is there, it does not fit the network, or ranks see different images.
pub(in crate::commands) fn open_side(
    location: &str,
    network: &Network<'_>,
    options: &NetworkOptions,
    rank: RankContext<'_>,
) -> Result<OpenedSide, Ending> {
    let (collective, code) = (rank.collective, Error::exit_code);
    let open = || {
        let side = OpenedSide::open(location, network.pictures(options), &stores(rank))?;
        side.check_features(network.extractor.identity())?;
        Ok::<_, Error>(side)
    };
    // Shards get an index when they are opened for the first time.
    let opened = in_turns(collective, open, code)?;
    let described = serde_json::json!([
        opened.images.as_ref().map(|images| (images.key(), images.num(), images.shape())),
        opened.statistics.as_ref().map(|statistics| &statistics.sha256),
    ]);
    agree(collective, check_same(&described, collective).map_err(Error::from), code)?;
    Ok(opened)
}

/// Opens the images at a location. Every rank calls it.
///
/// # Errors
/// When nothing is there.
pub(super) fn open_images(
    location: &str,
    network: &Network<'_>,
    options: &NetworkOptions,
    rank: RankContext<'_>,
) -> Result<ImageSet, Ending> {
    let open = || ImageSet::open(location, network.pictures(options), &stores(rank)).map_err(Error::from);
    in_turns(rank.collective, open, Error::exit_code)
}

/// Opens the store in which features are kept: `work`, or a folder beside the images. Every rank calls it.
///
/// # Errors
/// When there is no default for the location, or the store refuses.
pub(in crate::commands) fn open_work(work: Option<&str>, images: &str, rank: RankContext<'_>) -> Result<Store, Ending> {
    let open = || -> Result<Store, Error> {
        let location = match work {
            Some(work) => work.to_owned(),
            None if images.contains("://") => {
                return Err(Error::Refused(format!(
                    "--work: say where the features of {images} are kept, a folder that all hosts share or a bucket's URL"
                )));
            }
            None => format!("{}.evaluation", images.trim_end_matches('/')),
        };
        create_work(&location, "--work", &stores(rank))
    };
    agree(rank.collective, open(), Error::exit_code)
}

/// Computes the features of a set that are missing. Every rank calls it. Returns where they are, or `None` if the ranks were
/// asked to stop.
///
/// # Errors
/// When images cannot be read, or the features cannot be kept.
pub(super) fn compute(
    images: &mut ImageSet,
    network: &Network<'_>,
    store: &Store,
    stop: &Stop,
) -> Result<Option<FeatureParts>, Ending> {
    let Network { context, extractor } = network;
    let collective = context.collective;
    let is_root = collective.rank() == 0;
    let parts = parts_of(images, &**extractor, store, collective)?;
    let missing = missing_parts(images, &parts, collective)?;
    if is_root {
        tracing::info!(
            "{} of {} parts of the features of {} are missing; they go to {}",
            missing.len(),
            parts.num_parts(),
            images.location(),
            parts.url()
        );
    }
    let num = images.num();
    let line = is_root.then(|| ProgressLine::of_images(context.progress, num, PROGRESS_INTERVAL));
    let progress = |done: Done| {
        context.phases.begin(done.own, false, done.own_share, 0);
        let Some(line) = &line else { return };
        line.record(Metric::counter("samples", done.all, done.all as f64));
        line.commit(done.all, std::time::Instant::now());
    };
    stop.steps_begin();
    let with = ExtractContext { collective, phases: &context.phases, stop, progress: &progress };
    Ok(match extract_missing(images, &**extractor, &parts, &missing, &with)? {
        Extracted::All => Some(parts),
        Extracted::Preempted => None,
    })
}

/// Writes a file that the user asked for.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let file = |source| sample::Error::File { path: path.display().to_string(), source };
    Ok(write_file(path, bytes).map_err(file)?)
}
