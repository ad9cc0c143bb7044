//! `admiral bench evaluate`: how fast images become features, and features metrics.

use std::path::PathBuf;

use admiral_comm::ExitCode;
use admiral_inception::Weights;
use clap::Args;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::context::choose_device;
use crate::evaluate::{self, FeatureExtractor, Inception, inception};
use crate::gpus::Gpus;
use crate::ops::Kernels;
use crate::run_config::DeviceChoice;
use crate::statistics::Spread;
use crate::train::TrainError;

use super::evaluate_metrics::{Metrics, metrics};
use super::output::print_as;
use super::timing::{Clock, wait_for};

/// The options of `admiral bench evaluate`.
#[derive(Debug, Clone, Args)]
pub struct EvaluateBenchOptions {
    /// Images of a round
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    images: u32,
    /// Height and width of the images before the resize
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    size: u32,
    /// Images that are handed to the network at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch_size: u32,
    /// Rounds that are measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Rounds of warm-up before them, which are not measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    warmup: u32,
    /// Weights of the Inception network [default: random ones]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// The device
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Threads on a CPU; 0 takes all cores
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=4096))]
    threads: u16,
    /// Images on each side of the metrics, of 2048 features; 0 leaves the metrics out
    #[arg(long, value_name = "NUMBER", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    metrics: u32,
    /// Measure CPU time divided by the number of threads instead of elapsed time, for a shared machine. Not for GPUs
    #[arg(long)]
    processor_time: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why a measurement fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The images cannot be evaluated, or there is no such device.
    #[error(transparent)]
    Evaluate(#[from] evaluate::Error),
    /// The measurement cannot be printed.
    #[error(transparent)]
    Print(#[from] TrainError),
}

impl Error {
    /// Returns the exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Evaluate(error) => error.exit_code(),
            Self::Print(error) => error.exit_code(),
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Measured {
    device: String,
    threads: i32,
    clock: Clock,
    inception: Features,
    metrics: Option<Metrics>,
}

/// The features of a network.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Features {
    images: u32,
    size: u32,
    batch_size: u32,
    /// The seconds of a round of all images.
    seconds: Spread,
    images_per_second: f64,
}

/// Computes features of random images, and prints how long it took.
///
/// # Errors
/// When the weights cannot be read, there is no such device, or libtorch fails.
pub fn run(options: &EvaluateBenchOptions, gpus: &Gpus) -> Result<(), Error> {
    let device = choose_device(options.device, 0).map_err(evaluate::Error::from)?;
    if options.threads > 0 {
        tch::set_num_threads(i32::from(options.threads));
    }
    let clock = if options.processor_time { Clock::Processor } else { Clock::Wall };
    let weights = match &options.weights {
        Some(path) => inception::open_weights(Some(path))?,
        None => random_weights()?,
    };
    let network = Inception::new(&weights, &Kernels::open(device, gpus))?;
    let metrics = match options.metrics {
        0 => None,
        num => Some(metrics(num as usize, admiral_inception::POOL, clock)),
    };
    let metrics = metrics.transpose().map_err(|error| evaluate::Error::Refused(format!("--metrics: {error}")))?;
    let measured = Measured {
        device: format!("{device:?}"),
        threads: tch::get_num_threads(),
        clock,
        inception: features(&network, options, clock, device)?,
        metrics,
    };
    print_as(&measured, options.json, print)?;
    Ok(())
}

fn features(
    network: &dyn FeatureExtractor,
    options: &EvaluateBenchOptions,
    clock: Clock,
    device: Device,
) -> Result<Features, evaluate::Error> {
    let &EvaluateBenchOptions { images, size, batch_size, .. } = options;
    let shape = [i64::from(images), i64::from(size), i64::from(size), 3];
    let all = Tensor::randint(256, shape, (Kind::Uint8, Device::Cpu));
    let mut seconds = Vec::new();
    for round in 0..options.warmup + options.rounds {
        let start = clock.now();
        for batch in all.split(i64::from(batch_size), 0) {
            network.extract(&batch)?;
        }
        wait_for(device);
        if round >= options.warmup {
            seconds.push((clock.now() - start).as_secs_f64());
        }
    }
    let seconds = Spread::of(seconds.into_iter());
    Ok(Features { images, size, batch_size, seconds, images_per_second: f64::from(images) / seconds.median })
}

/// Random weights that keep the size of features about the same from layer to layer.
fn random_weights() -> Result<Weights, evaluate::Error> {
    tch::manual_seed(0);
    let weights = Weights::computed(|tensor| {
        let count = tensor.num_elements();
        match tensor.name.rsplit('.').next() {
            Some("running_var") => vec![1.0; count],
            Some("weight") if tensor.shape.len() == 1 => vec![1.0; count],
            Some("weight") => {
                let deviation = (2.0 / tensor.shape[1..].iter().product::<usize>() as f64).sqrt();
                let mut values = vec![0.0; count];
                (Tensor::randn([count as i64], (Kind::Float, Device::Cpu)) * deviation).copy_data(&mut values, count);
                values
            }
            _ => vec![0.0; count],
        }
    });
    weights.map_err(|error| evaluate::Error::Refused(error.to_string()))
}

fn print(measured: &Measured) {
    let Measured { device, threads, clock, inception, metrics } = measured;
    let Features { images, size, batch_size, seconds, images_per_second } = inception;
    println!("on {device}, threads: {threads}, {clock:?} clock, float32");
    println!(
        "Inception: {images_per_second:.2} images/s: {images} images of {size} x {size} in batches of {batch_size}, \
         {:.2} s a round ({:.2} to {:.2})",
        seconds.median, seconds.least, seconds.most
    );
    let Some(Metrics { num, width, fid_seconds, half_seconds, exact_seconds }) = metrics else { return };
    println!("FID from statistics of {width} features: {fid_seconds:.2} s");
    println!(
        "precision and recall of {num} x {num} x {width}: {half_seconds:.2} s as the published evaluator computes them, \
         {exact_seconds:.2} s in float64"
    );
}
