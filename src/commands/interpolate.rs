//! `admiral interpolate`: draws images between pairs of images (the paper's appendix F).

use std::f64::consts::FRAC_PI_2;
use std::path::PathBuf;

use admiral_comm::{Ending, ExitCode, agree};
use admiral_telemetry::{Grid, write_file};
use clap::Args;
use serde_json::json;

use crate::context::RankContext;
use crate::diffusion::{Sampler, SolverOptions, SolverPlan};
use crate::run_config::SamplingConfig;
use crate::sample::{Error, Interpolation, Inversion, OpenedModel, gather_agreed, pixels_of};

use super::given_images::open_images;
use super::model_options::{
    LabelOptions, ModelOnImages, ModelOptions, Progress, check_has_steps, check_out, labels_of,
};
use super::sample::{GuidanceKind, check_scale, load, open_classifier, weights};

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

/// A model on pairs of images between which it draws, before the weights are read.
struct OpenedPairs {
    on_images: ModelOnImages,
    classifier: Option<(OpenedModel, f64)>,
    solver: SolverPlan,
}

/// Draws and writes the strip. Every rank calls it.
///
/// # Errors
/// When the images cannot be drawn or the file cannot be written. The [`Ending`] says whether the ranks leave together.
pub(super) fn run(options: &InterpolateOptions, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let (collective, code) = (rank.collective, Error::exit_code);
    let opened = agree(collective, open(options, rank), code)?;
    let OpenedPairs { on_images, classifier, solver } = opened;
    let ModelOnImages { model, diffusion, mut images, labels, described, num, batch_size } = on_images;
    let pairs = num / 2;
    let guide = classifier.as_ref().map(|(classifier, scale)| json!([classifier.identity(), scale]));
    let classes: Vec<i64> = (0..num).filter_map(|image| labels.of(image)).collect();
    let same = json!([model.identity(), guide, described, classes, pairs, batch_size]);
    let (model, torso, context) = options.model.load(model, &same, rank)?;
    let classifier = match classifier {
        Some((classifier, scale)) => Some((load(classifier, torso, &context)?, scale)),
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
    check_out("--out", &options.out, "png", rank)?;
    let stores = rank.environment.store_options();
    let model = options.model.open("admiral interpolate", &stores)?;
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
    let given = open_images("--images", &options.images, network.image_size, network.image_channels, &stores)?;
    let there = given.images.count() / 2;
    let pairs = options.pairs.unwrap_or(PAIRS.min(there).max(1));
    if pairs > there {
        return Err(Error::Refused(format!(
            "--pairs: {pairs} pairs are {} images, but --images has {}",
            2 * pairs,
            given.images.count()
        )));
    }
    let shape = SamplingConfig { samples_per_class: options.columns, ..SamplingConfig::default() };
    if shape.check_grid(pairs, network.image_size).is_some() {
        return Err(Error::Refused(format!("--columns: {pairs} rows of {} images are too large", options.columns)));
    }
    let of_classifier = classifier.as_ref().and_then(|(classifier, _)| classifier.config.model.num_classes);
    let labels = (&options.labels, network.num_classes.or(of_classifier));
    let on_images = options.model.on_images(model, &options.respacing, ("--images", given), Some(2 * pairs), labels)?;
    check_has_steps(&on_images.diffusion)?;
    let solver_options = SolverOptions {
        timestep_respacing: options.respacing.clone(),
        eta: 0.0,
        clip_denoised: true,
        ..SolverOptions::default()
    };
    let solver = SolverPlan::new(Sampler::DDIM, &solver_options, &on_images.model.config.diffusion)
        .map_err(|error| Error::Refused(format!("sampling.{}: {error}", error.field())))?;
    Ok(OpenedPairs { on_images, classifier, solver })
}
