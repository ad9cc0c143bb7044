//! The comparison of two sets of images: `admiral evaluate SAMPLES --reference REFERENCE`.

use std::path::Path;

use admiral_comm::{Ending, ExitCode, Phase, agree};
use admiral_evaluation::{FeatureParts, MeasureOptions, OpenedSide, Report, Side, measure};
use admiral_storage::Store;

use crate::context::RankContext;
use crate::evaluate::Error;
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
    let out = options.out.as_deref().map_or(Ok(()), |out| check_out(out, "json").map_err(Error::from));
    agree(collective, out, code)?;
    let network = Network::open(&options.network, rank)?;
    let samples = open_side(location, &network, &options.network, rank)?;
    let reference = open_side(reference, &network, &options.network, rank)?;
    agree(collective, check_shapes(&samples, &reference), code)?;
    let store = open_work(options.network.work.as_deref(), location, rank)?;
    let measured = MeasureOptions {
        adm: options.mode != Mode::Exact,
        exact: options.mode != Mode::Adm,
        ..MeasureOptions::default()
    };
    let Some(report) = compared(samples, reference, &measured, &network, &store, stop)? else {
        return Ok(ExitCode::Preempted);
    };
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

/// Computes what is missing of the features of both sides, and compares them. Every rank calls it. Returns the report on rank
/// 0, and `None` on all ranks if they were asked to stop.
///
/// # Errors
/// When the images cannot be read or compared.
pub(in crate::commands) fn compared(
    samples: OpenedSide,
    reference: OpenedSide,
    options: &MeasureOptions,
    network: &Network<'_>,
    store: &Store,
    stop: &Stop,
) -> Result<Option<Option<Report>>, Ending> {
    let collective = network.context.collective;
    let mut sides = Vec::new();
    for mut side in [samples, reference] {
        let parts = match &mut side.images {
            Some(images) => match compute(images, network, store, stop)? {
                Some(parts) => Some(parts),
                None => return Ok(None),
            },
            None => None,
        };
        sides.push((side, parts));
    }
    network.context.phases.enter(Phase::Sample, 0);
    let measured = if collective.rank() == 0 {
        let read = sides.into_iter().map(|(side, parts)| {
            let tables = parts.as_ref().map(FeatureParts::read_all).transpose()?;
            Ok(Side::new(side, tables))
        });
        read.collect::<Result<Vec<Side>, Error>>().and_then(|sides| {
            let [samples, reference] = &sides[..] else { return Err(Error::Refused("two sides are compared".into())) };
            Ok(Some(measure(samples, reference, network.extractor.identity(), options)?))
        })
    } else {
        Ok(None)
    };
    Ok(Some(agree(collective, measured, Error::exit_code)?))
}

/// Refuses images that cannot be meant to be compared.
fn check_shapes(samples: &OpenedSide, reference: &OpenedSide) -> Result<(), Error> {
    if samples.images.is_none() && reference.images.is_none() && samples.location == reference.location {
        return Err(Error::Refused("the statistics would be compared with themselves; give two files".into()));
    }
    let shape = |side: &OpenedSide| side.images.as_ref().map(|images| images.shape());
    if let (Some(left), Some(right)) = (shape(samples), shape(reference))
        && left[..2] != right[..2]
    {
        return Err(Error::Refused(format!(
            "{} has images of {} x {} pixels and {} of {} x {}; draw or scale them to one size (--size for folders of \
             pictures)",
            samples.location, left[0], left[1], reference.location, right[0], right[1]
        )));
    }
    Ok(())
}

fn write_report(report: &Report, out: &Path) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(report).map_err(|error| Error::Refused(error.to_string()))?;
    write(out, &text)
}
