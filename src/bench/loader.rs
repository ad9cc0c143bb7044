//! `admiral bench loader`: the number of images per second that a machine reads, decodes, crops and noises for
//! training, and the time of each stage on one thread.

use std::path::PathBuf;
use std::time::Instant;

use admiral_containers::Fetched;
use admiral_data::{Decoding, Loader, SampleReader};
use admiral_storage::StoreOptions;
use clap::Args;
use serde::Serialize;

use crate::run_config::RunConfig;
use crate::statistics::Spread;
use crate::train::TrainError;

use super::loader_stages::{Stages, write_squares};
use super::output::print_as;

/// The options of `admiral bench loader`.
#[derive(Debug, Clone, Args)]
pub struct LoaderBenchOptions {
    /// Numbers of threads to measure; by default `data.num_workers`
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
    workers: Vec<usize>,
    /// Images per round
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    images: u64,
    /// Rounds that are measured, after one round of warm-up with other images
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// Also write the center crops of all image files to this file, as bytes, for a comparison with another program
    #[arg(long, value_name = "FILE")]
    squares: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Report {
    /// The loader with each number of threads.
    threads: Vec<Measured>,
    /// The stages of one thread, for each way of decoding; empty if the images are not files.
    stages: Vec<Stages>,
}

/// The images per second with a number of threads.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Measured {
    workers: usize,
    median: f64,
    least: f64,
    most: f64,
}

/// Reads images as training does, discards them, and prints the speed.
///
/// # Errors
/// When the data cannot be read.
pub fn run(config: &RunConfig, options: &LoaderBenchOptions, stores: &StoreOptions) -> Result<(), TrainError> {
    let source = admiral_data::open(&config.data, config.run.seed, stores)?.train;
    let own = [config.data.num_workers];
    let numbers = if options.workers.is_empty() { &own[..] } else { &options.workers };
    let mut all = Vec::new();
    for &workers in numbers {
        if workers == 0 {
            return Err(TrainError::Refused("--workers 0: at least one thread must read; give 1 or more".into()));
        }
        let reader = SampleReader::new(source.clone(), config.sample_spec(config.data.random_crop));
        all.push(measure(reader, workers, config, options)?);
    }
    if let Some(path) = &options.squares {
        write_squares(&*source, config, path)?;
    }
    let mut stages = Vec::new();
    if matches!(source.fetch(0)?, Fetched::File(_)) {
        for decoding in [Decoding::Exact, Decoding::Fast] {
            stages.push(Stages::measure(&*source, config, decoding, options.images, options.rounds)?);
        }
    }
    print_as(&Report { threads: all, stages }, options.json, |report| {
        print(&report.threads, options);
        report.stages.iter().for_each(Stages::print);
    })
}

fn measure(
    reader: SampleReader,
    workers: usize,
    config: &RunConfig,
    options: &LoaderBenchOptions,
) -> Result<Measured, TrainError> {
    let batch = config.training.microbatch.clamp(1, options.images);
    let passes = options.images.div_ceil(batch);
    let indices = (0..passes * (options.rounds + 1)).map(move |pass| (pass * batch..(pass + 1) * batch).collect());
    let mut loader = Loader::start(reader, workers, config.data.prefetch, indices)?;
    let mut rates = Vec::new();
    for _ in 0..=options.rounds {
        let start = Instant::now();
        for _ in 0..passes {
            if let Some((batch, _)) = loader.next()? {
                loader.keep(batch);
            }
        }
        rates.push((passes * batch) as f64 / start.elapsed().as_secs_f64());
    }
    // The first round is a warm-up: it reads files that are not in the page cache.
    rates.remove(0);
    let Spread { median, least, most } = Spread::of(rates.iter().copied());
    Ok(Measured { workers, median, least, most })
}

fn print(all: &[Measured], options: &LoaderBenchOptions) {
    println!("images a second, of {} rounds of {} images", options.rounds, options.images);
    println!("{:>8} {:>10} {:>10} {:>10} {:>12}", "threads", "median", "least", "most", "a thread");
    for Measured { workers, median, least, most } in all {
        println!("{workers:>8} {median:>10.0} {least:>10.0} {most:>10.0} {:>12.0}", median / *workers as f64);
    }
}
