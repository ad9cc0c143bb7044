//! `admiral evaluate nearest`: the training images nearest to samples (the paper's appendix C), and an audit of copies.

use std::path::{Path, PathBuf};

use admiral_comm::{Ending, ExitCode, agree};
use admiral_evaluation::{FeatureTables, ImageSet, check_nearest};
use admiral_metrics::{CopyAudit, Features, Neighbor, copy_audit, nearest_k};
use admiral_telemetry::Grid;
use clap::Args;
use serde_json::json;

use crate::context::RankContext;
use crate::evaluate::Error;
use crate::stop::Stop;

use super::super::model_options::check_out;
use super::features::{Network, compute, open_images, open_work, write};
use super::options::NetworkOptions;

/// The pixels between two images of the picture.
const PADDING: usize = 2;

/// The fraction of training images that lie as close to each other as a suspected copy to its original.
const QUANTILE: f64 = 0.001;

/// The suspected copies that are listed.
const LISTED: usize = 20;

/// The options of `admiral evaluate nearest`.
#[derive(Debug, Clone, Args)]
pub(super) struct NearestOptions {
    /// The samples: an npz file, a sampling job (a folder or a bucket's URL), a folder of pictures, or an IDX file
    samples: String,
    /// The training images, in one of the same forms
    #[arg(long)]
    reference: String,
    /// The picture to write: a row for each chosen sample, with the sample and the images nearest to it
    #[arg(long, value_name = "FILE.png")]
    out: PathBuf,
    /// The chosen samples, by number from 0 [default: the 8 that are closest to a training image]
    #[arg(long, value_delimiter = ',')]
    images: Option<Vec<u64>>,
    /// The nearest images of each
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    neighbors: u32,
    /// Write numbers and distances to this file, as JSON
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkOptions,
}

/// The samples that are shown unless the options choose them.
const SHOWN: usize = 8;

/// Finds the nearest images, draws them, and prints the audit. Every rank calls it.
///
/// # Errors
/// When the images cannot be read or compared, or a file cannot be written.
pub(super) fn run(options: &NearestOptions, stop: &Stop, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let (collective, code) = (rank.collective, Error::exit_code);
    let outs = check_out("--out", &options.out, "png", rank)
        .and_then(|()| options.json.as_deref().map_or(Ok(()), |path| check_out("--json", path, "json", rank)));
    agree(collective, outs.map_err(Error::from), code)?;
    let network = Network::open(&options.network, rank)?;
    let open = |location: &str| open_images(location, &network, &options.network, rank);
    let mut sets = [open(&options.samples)?, open(&options.reference)?];
    agree(collective, check(&sets, options, &network), code)?;
    let store = open_work(options.network.work.as_deref(), &options.samples, rank)?;
    let mut parts = Vec::new();
    for images in &mut sets {
        let Some(found) = compute(images, &network, &store, stop)? else { return Ok(ExitCode::Preempted) };
        parts.push(found);
    }
    let mut compare = || -> Result<(), Error> {
        if collective.rank() != 0 {
            return Ok(());
        }
        let width = network.extractor.identity().pool;
        let [samples, reference] = [parts[0].read_all()?, parts[1].read_all()?];
        report(options, &mut sets, &samples, &reference, width)
    };
    agree(collective, compare(), code)?;
    Ok(ExitCode::Finished)
}

fn check([samples, reference]: &[ImageSet; 2], options: &NearestOptions, network: &Network<'_>) -> Result<(), Error> {
    check_nearest(&samples.count(), &reference.count(), network.extractor.input())?;
    if let Some(image) = options.images.iter().flatten().find(|image| **image >= samples.num()) {
        return Err(Error::Refused(format!("--images: {image} is none of the {} samples, from 0", samples.num())));
    }
    if u64::from(options.neighbors) > reference.num() {
        return Err(Error::Refused(format!(
            "--neighbors: is {}, and there are {} images to choose from",
            options.neighbors,
            reference.num()
        )));
    }
    Ok(())
}

fn report(
    options: &NearestOptions,
    sets: &mut [ImageSet; 2],
    samples: &FeatureTables,
    reference: &FeatureTables,
    width: usize,
) -> Result<(), Error> {
    let metric = |error| admiral_evaluation::Error::Metric { metric: "nearest", error };
    let (generated, real) =
        (Features::new(&samples.pool, width).map_err(metric)?, Features::new(&reference.pool, width).map_err(metric)?);
    let audit = copy_audit(&generated, &real).map_err(metric)?;
    let chosen: Vec<usize> = match &options.images {
        Some(images) => images.iter().map(|&image| image as usize).collect(),
        None => closest(&audit),
    };
    let rows: Vec<f32> =
        chosen.iter().flat_map(|&image| &samples.pool[image * width..(image + 1) * width]).copied().collect();
    let rows = Features::new(&rows, width).map_err(metric)?;
    let found = nearest_k(&rows, &real, options.neighbors as usize).map_err(metric)?;
    draw(options, sets, &chosen, &found)?;
    let (limit, suspects) = audit.suspects(QUANTILE);
    println!(
        "{}: {} samples, each with the {} images nearest to it",
        shown(&options.out),
        chosen.len(),
        options.neighbors
    );
    println!(
        "{} of {} samples are closer to a training image than any two training images are to each other",
        audit.closer_than_any(),
        samples.num
    );
    println!(
        "{} of them are suspected copies: closeness below {limit:.3}, where {:.1} are expected without copying",
        suspects.len(),
        expected(samples.num, reference.num)
    );
    for &image in suspects.iter().take(LISTED) {
        println!(
            "  sample {image}: training image {}, closeness {:.3}",
            audit.nearest[image].index, audit.closeness[image]
        );
    }
    if suspects.len() > LISTED {
        println!("  and {} more", suspects.len() - LISTED);
    }
    let Some(path) = &options.json else { return Ok(()) };
    let neighbors = |found: &[Neighbor]| -> Vec<_> {
        found
            .iter()
            .map(|neighbor| json!({"image": neighbor.index, "squared_distance": neighbor.squared_distance}))
            .collect()
    };
    let chosen: Vec<_> =
        chosen.iter().zip(&found).map(|(image, found)| json!({"sample": image, "nearest": neighbors(found)})).collect();
    let suspects: Vec<_> = suspects
        .iter()
        .map(
            |&image| json!({"sample": image, "image": audit.nearest[image].index, "closeness": audit.closeness[image]}),
        )
        .collect();
    let all = json!({"chosen": chosen, "closeness_limit": limit, "suspects": suspects});
    write(path, all.to_string().as_bytes())
}

/// Returns the number of samples that are suspected without copying: the share of training images that are at least as close
/// to another one. Of few training images the closest one is the limit.
fn expected(samples: u64, references: u64) -> f64 {
    let position = (QUANTILE * references as f64).floor();
    samples as f64 * (position + 1.0) / (references as f64 + 1.0)
}

/// Returns the samples that are closest to a training image, the closest first.
fn closest(audit: &CopyAudit) -> Vec<usize> {
    let mut order: Vec<usize> = (0..audit.closeness.len()).collect();
    order.sort_by(|&a, &b| audit.closeness[a].total_cmp(&audit.closeness[b]));
    order.truncate(SHOWN);
    order
}

/// Draws a row for each chosen sample.
fn draw(
    options: &NearestOptions,
    sets: &mut [ImageSet; 2],
    chosen: &[usize],
    found: &[Vec<Neighbor>],
) -> Result<(), Error> {
    let [samples, reference] = sets;
    let mut pixels = Vec::new();
    for (&image, neighbors) in chosen.iter().zip(found) {
        let image = image as u64;
        pixels.extend(samples.read(image..image + 1)?);
        for neighbor in neighbors {
            let image = neighbor.index as u64;
            pixels.extend(reference.read(image..image + 1)?);
        }
    }
    let columns = options.neighbors as usize + 1;
    let png = Grid::of(&pixels, samples.shape(), columns, PADDING).and_then(|grid| grid.png());
    write(&options.out, &png.map_err(|error| Error::Refused(error.to_string()))?)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
