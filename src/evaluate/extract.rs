//! Computes the features of a set of images in parts, on all ranks. It can be killed at any time and continued.

use admiral_comm::{Collective, Ending, Phase, PhaseTracker, agree, any};
use admiral_evaluation::{FeatureParts, FeatureSettings, FeatureTables, ImageSet, images_of_bytes};
use admiral_samples::parts_of_rank;
use admiral_storage::{Store, hex};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::sample::numbers_from_root;
use crate::stop::Stop;

use super::error::Error;
use super::extractor::{FeatureExtractor, ImageFeatures};

/// The most images of a part that are read and computed together.
const CHUNK: u64 = 250;

/// What the computation runs with.
pub struct ExtractContext<'a> {
    /// The ranks.
    pub collective: &'a dyn Collective,
    /// Records what this rank does in its ledger.
    pub phases: &'a PhaseTracker,
    /// Asks the ranks to stop.
    pub stop: &'a Stop,
    /// Told how many images this rank has computed since the start, and how many are done by all ranks.
    pub progress: &'a dyn Fn(Done),
}

/// How far the computation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The images that this rank has computed.
    pub own: u64,
    /// The images that this rank has to compute.
    pub own_share: u64,
    /// The images whose features are there, of all ranks.
    pub all: u64,
}

/// How the computation ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extracted {
    /// All parts are there.
    All,
    /// The ranks were asked to stop. The parts that are finished are kept.
    Preempted,
}

/// Computes the parts that are missing. Every rank calls it, with the same `missing`.
///
/// # Errors
/// When images cannot be read, do not fit the network, or a part cannot be written, with the same message on every rank.
pub fn extract_missing(
    images: &mut ImageSet,
    extractor: &dyn FeatureExtractor,
    parts: &FeatureParts,
    missing: &[u64],
    context: &ExtractContext<'_>,
) -> Result<Extracted, Ending> {
    let ExtractContext { collective, stop, progress, .. } = *context;
    let (rank, world_size) = (collective.rank(), collective.world_size());
    let images_in = |parts_in: &[u64]| -> u64 {
        parts_in.iter().map(|part| parts.images_of(*part)).map(|images| images.end - images.start).sum()
    };
    let own_share = images_in(&parts_of_rank(missing, rank, world_size));
    let mut done = Done { own: 0, own_share, all: parts.settings().num - images_in(missing) };
    progress(done);
    for round in missing.chunks(world_size) {
        let own = round.get(rank).copied();
        let written = match own {
            Some(part) => extract_part(images, extractor, parts, part, done, context),
            None => Ok(()),
        };
        agree(collective, written, Error::exit_code)?;
        if any(collective, stop.is_asked())? {
            return Ok(Extracted::Preempted);
        }
        done.all += images_in(round);
        done.own += own.map_or(0, |part| images_in(&[part]));
        progress(done);
    }
    Ok(Extracted::All)
}

/// Returns where the features of a set are kept. Every rank calls it.
///
/// # Errors
/// When a file of the images cannot be looked at, or the ranks cannot reach each other.
pub fn parts_of(
    images: &ImageSet,
    extractor: &dyn FeatureExtractor,
    store: &Store,
    collective: &dyn Collective,
) -> Result<FeatureParts, Ending> {
    // Times of change may differ between hosts.
    let stamp = if collective.rank() == 0 { images.stamp() } else { Ok(String::new()) };
    let mut stamp = agree(collective, stamp.map_err(Error::from), Error::exit_code)?.into_bytes();
    collective.broadcast(0, &mut stamp)?;
    let key = format!("{} {}", images.key(), String::from_utf8_lossy(&stamp));
    let settings = FeatureSettings::new(extractor.identity().clone(), key, images.num(), images.shape());
    Ok(FeatureParts::new(store, settings))
}

/// Returns the parts that are missing, on every rank, after rank 0 has recorded what they are. Every rank calls it.
///
/// # Errors
/// When the store refuses, the images are damaged, or a rank does not see what rank 0 has recorded.
pub fn missing_parts(images: &ImageSet, parts: &FeatureParts, collective: &dyn Collective) -> Result<Vec<u64>, Ending> {
    let code = Error::exit_code;
    let described = if collective.rank() == 0 { parts.describe() } else { Ok(()) };
    agree(collective, described.map_err(Error::from), code)?;
    let shared = parts.is_described().map_err(Error::from).and_then(|is_there| match is_there {
        true => Ok(()),
        false => Err(Error::Refused(format!(
            "rank 0 has written to {}, which this rank does not see; keep features in a folder that all hosts share, or \
             under a bucket's URL",
            parts.url()
        ))),
    });
    agree(collective, shared, code)?;
    let missing = || {
        let missing = parts.missing()?;
        if !missing.is_empty() {
            // No features of a damaged file are kept.
            images.verify()?;
        }
        Ok(missing)
    };
    numbers_from_root(collective, missing, code)
}

/// Computes and publishes a part. Publishes nothing if the ranks were asked to stop meanwhile.
fn extract_part(
    images: &mut ImageSet,
    extractor: &dyn FeatureExtractor,
    parts: &FeatureParts,
    part: u64,
    done: Done,
    context: &ExtractContext<'_>,
) -> Result<(), Error> {
    let all = parts.images_of(part);
    let mut tables = FeatureTables::empty(extractor.identity());
    let mut digests = Sha256::new();
    let [height, width, channels] = images.shape().map(|side| side as i64);
    let at_once = CHUNK.min(images_of_bytes(images.shape()));
    for (number, start) in all.clone().step_by(at_once as usize).enumerate() {
        if context.stop.is_asked() {
            return Ok(());
        }
        let chunk = start..(start + at_once).min(all.end);
        (context.progress)(Done { own: done.own + (start - all.start), ..done });
        context.phases.enter(Phase::Data, number);
        let pixels = images.read(chunk.clone())?;
        digests.update(&pixels);
        context.phases.enter(Phase::Sample, number);
        let batch = Tensor::from_slice(&pixels).view([(chunk.end - chunk.start) as i64, height, width, channels]);
        let features = extractor.extract(&batch)?;
        append_features(&mut tables, &features);
    }
    tables.pixels = hex(digests.finalize());
    context.phases.enter(Phase::Checkpoint, part as usize);
    Ok(parts.write(part, &tables)?)
}

/// Appends the features of images to tables.
pub fn append_features(tables: &mut FeatureTables, features: &ImageFeatures) {
    tables.num += features.pool.size()[0].unsigned_abs();
    append(&mut tables.pool, &features.pool);
    for (table, values) in [(&mut tables.spatial, &features.spatial), (&mut tables.logits, &features.logits)] {
        if let (Some(table), Some(values)) = (table, values) {
            append(table, values);
        }
    }
}

/// Appends the values of a float32 tensor on the CPU.
fn append(table: &mut Vec<f32>, values: &Tensor) {
    let values = values.to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let start = table.len();
    table.resize(start + values.numel(), 0.0);
    values.copy_data(&mut table[start..], values.numel());
}
