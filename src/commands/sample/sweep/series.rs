//! The series of a run's checkpoints, evaluated as the cells of a sweep (the paper's Tables 8 and 9).

use admiral_checkpoint::Catalog;
use admiral_comm::{Ending, ExitCode, agree};
use admiral_storage::StoreOptions;

use crate::commands::evaluate::EvaluateOptions;
use crate::context::RankContext;
use crate::sample::{Error, OpenedModel};
use crate::stop::Stop;

use super::spec::{Lists, Numerics, SweepEvaluation, SweepSpec};
use super::sweep_of;

/// The images of each checkpoint, unless the options say otherwise.
const NUM_IMAGES: u64 = 10_000;

/// Draws images from the run's checkpoints of every so many steps, and evaluates them. Every rank calls it.
///
/// # Errors
/// When there are no such checkpoints, or a cell cannot be drawn or evaluated. The [`Ending`] says whether the ranks leave
/// together.
pub(in crate::commands) fn series(
    options: &EvaluateOptions,
    run: &str,
    reference: &str,
    every: u64,
    stop: &Stop,
    rank: RankContext<'_>,
) -> Result<ExitCode, Ending> {
    let stores = rank.environment.store_options();
    let spec = agree(rank.collective, spec_of(options, run, reference, every, &stores), Error::exit_code)?;
    sweep_of(&spec, stop, rank)
}

fn spec_of(
    options: &EvaluateOptions,
    run: &str,
    reference: &str,
    every: u64,
    stores: &StoreOptions,
) -> Result<SweepSpec, Error> {
    let catalog = Catalog::open(run, stores)?;
    let steps: Vec<u64> = catalog.steps()?.into_iter().filter(|step| step.is_multiple_of(every)).collect();
    if steps.is_empty() {
        return Err(Error::Refused(format!(
            "--every: {run} has no checkpoint of a step that is a multiple of {every}"
        )));
    }
    let checkpoints: Vec<String> =
        steps.into_iter().map(|step| Ok(catalog.checkpoint(step)?.url())).collect::<Result<_, Error>>()?;
    let trained = OpenedModel::open(&checkpoints[0], None, stores)?.config.sampling;
    let work = options.network.work.clone();
    let out = match work {
        Some(work) => work,
        None if run.contains("://") => {
            return Err(Error::Refused("--work: say where the images go, a folder or a bucket's URL".into()));
        }
        None => format!("{}.evaluation", run.trim_end_matches('/')),
    };
    Ok(SweepSpec {
        checkpoints,
        num: options.num.unwrap_or(NUM_IMAGES),
        seed: options.seed.unwrap_or(0),
        lists: Lists {
            samplers: vec![options.sampler.unwrap_or(trained.sampler)],
            respacings: options.respacing.iter().cloned().collect(),
            ..Lists::default()
        },
        evaluate: Some(SweepEvaluation {
            reference: reference.to_owned(),
            features: options.network.features.clone(),
            inception: options.network.inception.clone(),
            weights: options.network.weights.clone(),
            size: options.network.size,
            mode: if options.is_adm() { Numerics::Adm } else { Numerics::Exact },
        }),
        device: options.network.compute.device,
        threads: options.network.compute.threads,
        out,
        ..SweepSpec::default()
    })
}
