//! `admiral interpolate`: draws images between pairs of images (the paper's appendix F).

use std::f64::consts::FRAC_PI_2;
use std::path::PathBuf;

use admiral_comm::{Ending, ExitCode, agree};
use admiral_telemetry::{Grid, write_file};
use clap::Args;
use serde_json::{Value, json};

use crate::context::RankContext;
use crate::diffusion::{GaussianDiffusion, Sampler, SolverOptions, SolverPlan};
use crate::run_config::SamplingConfig;
use crate::sample::{Error, GivenImages, Interpolation, Inversion, Labels, OpenedModel, gather_agreed, pixels_of};

use super::given_images::{OpenedImages, open_images};
use super::model_options::{LabelOptions, ModelOptions, Progress, check_has_steps, check_out, labels_of, respaced};
use super::sample::{GuidanceKind, check_same, check_scale, load, open_classifier, weights};

/// The pixels between two images of the strip.
const PADDING: usize = 2;

/// Pairs, unless the options say otherwise or there are fewer.
const PAIRS: u64 = 8;

/// The options of `admiral interpolate`.
#[derive(Debug, Clone, Args)]
pub struct InterpolateOptions {
    #[command(flatten)]
    model: ModelOptions,
    /// The images, of which the first two are a pair, then the next two: a folder of pictures, an npz file, or the output
    /// of a sampling job
    #[arg(long, value_name = "FOLDER|FILE|JOB")]
    images: String,
    /// The PNG file to write, with a row for each pair
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Pairs of images [default: all, at most 8]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pairs: Option<u64>,
    /// Images of a row: the two originals and what is drawn between them
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u64).range(4..=1000))]
    columns: u64,
    /// Timesteps that are visited: ddim250, 50, or "" for all
    #[arg(long, default_value = "ddim250")]
    respacing: String,
    /// Guidance: classifier=CHECKPOINT
    #[arg(long, value_name = "KIND", requires = "scale")]
    guidance: Option<GuidanceKind>,
    /// The strength of the guidance
    #[arg(long, requires = "guidance", allow_negative_numbers = true)]
    scale: Option<f64>,
    /// Weights of the classifier, as for --weights
    #[arg(long, requires = "guidance")]
    guidance_weights: Option<String>,
    #[command(flatten)]
    labels: LabelOptions,
}

/// A model and the pairs of images between which it draws, before the weights are read.
struct OpenedPairs {
    model: OpenedModel,
    classifier: Option<(OpenedModel, f64)>,
    diffusion: GaussianDiffusion,
    solver: SolverPlan,
    images: GivenImages,
    labels: Labels,
    described: Value,
    pairs: u64,
    batch_size: u64,
}

/// Draws and writes the strip. Every rank calls it.
///
/// # Errors
/// When the images cannot be drawn or the file cannot be written. The [`Ending`] says whether the ranks leave together.
pub(super) fn run(options: &InterpolateOptions, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let (collective, code) = (rank.collective, Error::exit_code);
    let opened = agree(collective, open(options, rank), code)?;
    let OpenedPairs { model, classifier, diffusion, solver, mut images, labels, described, pairs, batch_size } = opened;
    let guide = classifier.as_ref().map(|(classifier, scale)| json!([classifier.identity(), scale]));
    let classes: Vec<i64> = (0..2 * pairs).filter_map(|image| labels.of(image)).collect();
    let same = json!([model.identity(), guide, described, classes, pairs, batch_size]);
    agree(collective, check_same(&same, collective), code)?;
    let context = agree(collective, options.model.compute.open_context(rank, &model.config), code)?;
    let kind = options.model.compute.precision(&model.config, &context).kind();
    let model = load(model, kind, &context)?;
    let classifier = match classifier {
        Some((classifier, scale)) => Some((load(classifier, kind, &context)?, scale)),
        None => None,
    };
    let network = &model.config.model;
    let (channels, size) = (network.image_channels as usize, network.image_size as usize);

    let kernels = &context.kernels;
    let inversion = Inversion { model: weights(&model), kernels, diffusion: &diffusion, all_steps: false };
    let interpolation = Interpolation {
        inversion,
        solver: &solver,
        classifier: classifier.as_ref().map(|(classifier, scale)| (weights(classifier), *scale)),
        batch_size: batch_size as usize,
    };
    // The originals are at both ends.
    let last = (options.columns - 3) as f64;
    let thetas: Vec<f64> = (0..options.columns - 2).map(|column| FRAC_PI_2 * column as f64 / last).collect();
    let progress = Progress::new(&context, pairs);
    let mut pixels = Vec::new();
    gather_agreed(
        pairs,
        1,
        collective,
        |pair| {
            let ends = 2 * pair.start..2 * pair.end;
            let originals = images.load(ends.clone())?;
            let between = interpolation.between(&originals, labels_of(&labels, ends).as_ref(), &thetas);
            // Half a level more, because bytes are truncated: the originals keep theirs.
            let mut row = pixels_of(&(originals + 0.5 / 127.5));
            let end = row.split_off(row.len() / 2);
            row.extend(pixels_of(&between));
            row.extend(end);
            Ok(row)
        },
        |pair, row| {
            pixels.extend(row);
            progress.show(pair.end, None);
            Ok(())
        },
    )?;
    let write = || {
        let png = Grid::of(&pixels, [size, size, channels], options.columns as usize, PADDING)
            .and_then(|grid| grid.png())
            .map_err(|error| Error::Bug(error.to_string()))?;
        let path = options.out.display().to_string();
        write_file(&options.out, &png).map_err(|source| Error::File { path, source })
    };
    agree(collective, if collective.rank() == 0 { write() } else { Ok(()) }, code)?;
    if collective.rank() == 0 {
        let (out, between) = (options.out.display(), options.columns - 2);
        println!("{out}: {between} images between each of {pairs} pairs, from step {}", model.identity.step);
    }
    Ok(ExitCode::Finished)
}

fn open(options: &InterpolateOptions, rank: RankContext<'_>) -> Result<OpenedPairs, Error> {
    check_out(&options.out, "png")?;
    let stores = rank.environment.store_options();
    let model = options.model.open("admiral interpolate", &stores)?;
    let diffusion = respaced(&model.config, &options.respacing)?;
    check_has_steps(&diffusion)?;
    let solver_options = SolverOptions {
        timestep_respacing: options.respacing.clone(),
        eta: 0.0,
        clip_denoised: true,
        ..SolverOptions::default()
    };
    let solver = SolverPlan::new(Sampler::DDIM, &solver_options, &model.config.diffusion)
        .map_err(|error| Error::Refused(format!("sampling.{}: {error}", error.field())))?;
    let classifier = match (&options.guidance, options.scale) {
        (None, _) => None,
        (Some(GuidanceKind::Classifier(location)), Some(scale)) => {
            check_scale(scale)?;
            let classifier = open_classifier(location, options.guidance_weights.as_deref(), &model, &stores)?;
            Some((classifier, scale))
        }
        (Some(_), _) => {
            return Err(Error::Refused("--guidance: between two images it is classifier=CHECKPOINT".into()));
        }
    };
    let network = &model.config.model;
    let OpenedImages { images, classes, described } =
        open_images("--images", &options.images, network.image_size, network.image_channels, &stores)?;
    let there = images.count() / 2;
    let pairs = options.pairs.unwrap_or(PAIRS.min(there).max(1));
    if pairs > there {
        return Err(Error::Refused(format!(
            "--pairs: {pairs} pairs are {} images, but --images has {}",
            2 * pairs,
            images.count()
        )));
    }
    let shape = SamplingConfig { samples_per_class: options.columns, ..SamplingConfig::default() };
    if shape.check_grid(pairs, network.image_size).is_some() {
        return Err(Error::Refused(format!("--columns: {pairs} rows of {} images are too large", options.columns)));
    }
    let of_classifier = classifier.as_ref().and_then(|(classifier, _)| classifier.config.model.num_classes);
    let labels = options.labels.labels(network.num_classes.or(of_classifier), 2 * pairs, classes, "--images")?;
    let batch_size = options.model.batch_size(&model.config);
    Ok(OpenedPairs { model, classifier, diffusion, solver, images, labels, described, pairs, batch_size })
}
