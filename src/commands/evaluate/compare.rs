//! The comparison of two sets of images: `admiral evaluate SAMPLES --reference REFERENCE`.

use std::path::Path;

use admiral_comm::{Ending, ExitCode, Phase, agree};
use admiral_evaluation::{FeatureParts, MeasureOptions, OpenedSide, Report, Side, check_comparison, measure};
use admiral_storage::Store;

use crate::context::RankContext;
use crate::evaluate::Error;
use crate::ops::bridge;
use crate::stop::Stop;

use super::super::model_options::check_out;
use super::features::{Network, compute, open_side, open_work, write};
use super::options::{EvaluateOptions, Mode};

/// Compares the sets and prints the result. Every rank calls it.
///
/// # Errors
/// When the images cannot be read or compared. The [`Ending`] says whether the ranks leave together.
pub(super) fn run(
    options: &EvaluateOptions,
    location: &str,
    reference: &str,
    stop: &Stop,
    rank: RankContext<'_>,
) -> Result<ExitCode, Ending> {
    let (collective, code) = (rank.collective, Error::exit_code);
    let out = options.out.as_deref().map_or(Ok(()), |out| check_out("--out", out, "json", rank).map_err(Error::from));
    agree(collective, out, code)?;
    let network = Network::open(&options.network, rank)?;
    let samples = open_side(location, &network, &options.network, rank)?;
    let reference = open_side(reference, &network, &options.network, rank)?;
    agree(collective, check(&samples, &reference, &network), code)?;
    let store = open_work(options.network.work.as_deref(), location, rank)?;
    let measured = MeasureOptions {
        adm: options.mode != Mode::Exact,
        exact: options.mode != Mode::Adm,
        ..MeasureOptions::default()
    };
    // The features of both are there before those of one are read, which takes memory.
    let Some(samples) = with_features(samples, &network, &store, stop)? else { return Ok(ExitCode::Preempted) };
    let Some(reference) = with_features(reference, &network, &store, stop)? else { return Ok(ExitCode::Preempted) };
    network.context.phases.enter(Phase::Sample, 0);
    let compared = || -> Result<Option<Report>, Error> {
        if collective.rank() != 0 {
            return Ok(None);
        }
        let (samples, reference) = (samples.read()?, reference.read()?);
        let report = measure(&samples, &reference, network.extractor.identity(), &measured)?;
        Ok(Some(Report { libtorch: bridge::torch_loaded()?, ..report }))
    };
    let report = agree(collective, compared(), code)?;
    // Rank 0 has the report.
    if let Some(report) = &report {
        print!("{}", report.table());
    }
    let written = match (&report, &options.out) {
        (Some(report), Some(out)) => write_report(report, out),
        _ => Ok(()),
    };
    agree(collective, written, code)?;
    Ok(ExitCode::Finished)
}

/// A side whose features are all there.
pub(in crate::commands) struct ComputedSide {
    side: OpenedSide,
    parts: Option<FeatureParts>,
}

impl ComputedSide {
    /// Reads the features.
    ///
    /// # Errors
    /// When one is damaged, or the store refuses.
    pub(in crate::commands) fn read(self) -> Result<Side, Error> {
        let tables = self.parts.as_ref().map(FeatureParts::read_all).transpose()?;
        Ok(Side::new(self.side, tables))
    }
}

/// Computes what is missing of the features of a side. Every rank calls it. Returns `None` on all ranks if they were asked to
/// stop.
///
/// # Errors
/// When the images cannot be read.
pub(in crate::commands) fn with_features(
    mut side: OpenedSide,
    network: &Network<'_>,
    store: &Store,
    stop: &Stop,
) -> Result<Option<ComputedSide>, Ending> {
    let parts = match &mut side.images {
        Some(images) => match compute(images, network, store, stop)? {
            Some(parts) => Some(parts),
            None => return Ok(None),
        },
        None => None,
    };
    Ok(Some(ComputedSide { side, parts }))
}

/// Refuses images that cannot be meant to be compared.
fn check(samples: &OpenedSide, reference: &OpenedSide, network: &Network<'_>) -> Result<(), Error> {
    if samples.images.is_none() && reference.images.is_none() && samples.location == reference.location {
        return Err(Error::Refused("the statistics would be compared with themselves; give two files".into()));
    }
    let (samples, reference) = (samples.count(), reference.count());
    Ok(check_comparison(samples.as_ref(), reference.as_ref(), network.extractor.input())?)
}

fn write_report(report: &Report, out: &Path) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(report).map_err(|error| Error::Refused(error.to_string()))?;
    write(out, &text)
}
