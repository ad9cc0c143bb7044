//! `admiral data doctor`: what limits the loading of images.

use admiral_comm::ExitCode;
use admiral_containers::Fetched;
use admiral_data::{DataConfig, Decoding, Format, ImageSource};
use admiral_packing::{Bottleneck, Chosen, Diagnosis, Fetching, Measured, Remedy, diagnose, measure_fetching};
use admiral_plan::{GPUS_PER_NODE, GpuKind};
use admiral_storage::StoreOptions;
use clap::Args;
use serde::Serialize;

use crate::bench::loader_stages::Stages;
use crate::run_config::{RunConfig, plan_request};

use super::super::config::{ConfigArguments, read, refuse};
use super::super::hardware::all_cores;
use super::super::planned;
use super::super::ranks::{CommandError, print_json};
use super::super::text::{shell, size};
use super::common::{failed, refused};

/// The options of `admiral data doctor`.
#[derive(Args)]
pub struct DoctorOptions {
    #[command(flatten)]
    config: ConfigArguments,
    /// Ranks of the run; hosts have up to 8
    #[arg(long, default_value_t = 1)]
    ranks: u64,
    /// The GPUs that are to be kept busy: v100, a100, h100 or h200; without, no speed is needed
    #[arg(long)]
    gpu: Option<String>,
    /// Images that are read and decoded
    #[arg(long, default_value_t = 500)]
    images: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The images whose latency is measured.
const LATENCY_IMAGES: u64 = 100;

/// The fewest and the most threads that read at once to find the bandwidth. Few threads would only show the latency again.
const READERS: [u64; 2] = [64, 256];

/// The rounds of the stages, after one of warm-up.
const ROUNDS: u64 = 3;

/// All that is known.
#[derive(Serialize)]
struct Report {
    stages: Stages,
    /// One thread that fetches images.
    latency: Fetching,
    /// Many threads that fetch images.
    bandwidth: Fetching,
    /// The number of these threads.
    readers: u64,
    measured: Measured,
    diagnosis: Diagnosis,
    /// The remedies as sentences.
    advice: Vec<String>,
}

/// Measures the loading of images, and prints what limits it.
///
/// # Errors
/// When the images cannot be read, or no plan can be made, with the exit code.
pub(super) fn run(options: &DoctorOptions, stores: &StoreOptions) -> Result<(), CommandError> {
    for (name, value) in [("--ranks", options.ranks), ("--images", options.images)] {
        if value == 0 {
            return Err(refused(format!("{name} is 0; give at least 1")));
        }
    }
    let kind = options.gpu.as_ref().map(|gpu| gpu.parse::<GpuKind>()).transpose();
    let kind = kind.map_err(|error| (ExitCode::Config, error.into()))?;
    let config = read(&options.config.config, &options.config.overrides)?;
    if let Some(kind) = kind {
        // A configuration that has no plan is refused before anything is measured.
        needed(&config, kind, options, 1)?;
    }
    let train_error = |error: crate::train::TrainError| (error.exit_code(), error.into());
    let opened = admiral_data::open(&config.data, config.run.seed, stores);
    let source = opened.map_err(|error| train_error(error.into()))?.train;
    let images = options.images.min(source.num_images());
    let ranks_per_host = options.ranks.min(GPUS_PER_NODE);
    let workers = config.data.num_workers as u64;
    let readers = workers.saturating_mul(ranks_per_host).clamp(READERS[0], READERS[1]);
    // Before other images are read, and without the cache, which may have them from an earlier run.
    let latency = if config.data.cache.is_some() {
        let data = DataConfig { cache: None, ..config.data.clone() };
        let uncached = admiral_data::open(&data, config.run.seed, stores).map_err(|error| train_error(error.into()))?;
        measure_fetching(&*uncached.train, Chosen::Between(images.min(LATENCY_IMAGES)), 1)
    } else {
        measure_fetching(&*source, Chosen::Between(images.min(LATENCY_IMAGES)), 1)
    };
    let latency = latency.map_err(failed)?;
    let bandwidth = measure_fetching(&*source, Chosen::Spaced(images), readers as usize).map_err(failed)?;
    let stages = Stages::measure(&*source, &config, config.data.decode, images, ROUNDS).map_err(train_error)?;
    let mean_bytes = bandwidth.mean_bytes.round() as u64;
    let measured = Measured {
        needed: kind.map(|kind| needed(&config, kind, options, mean_bytes)).transpose()?.flatten(),
        fetch_seconds: latency.median_seconds,
        host_fetch_rate: bandwidth.images_per_second,
        decode_seconds: stages.seconds_of("decode"),
        scale_seconds: ["halve", "cut", "planes"].iter().map(|stage| stages.seconds_of(stage)).sum(),
        noise_seconds: stages.seconds_of("noise"),
        workers,
        ranks_per_host,
        cores: all_cores() as u64,
        is_remote: config.data.path.contains("://"),
        has_cache: config.data.cache.is_some(),
        can_decode_fast: config.data.decode == Decoding::Exact && is_jpeg(&*source).map_err(train_error)?,
        has_random_crop: config.data.random_crop,
    };
    let diagnosis = diagnose(&measured);
    let advice = diagnosis.remedies.iter().map(|remedy| advice(*remedy, &config)).collect();
    let report = Report { stages, latency, bandwidth, readers, measured, diagnosis, advice };
    if options.json {
        return print_json(&report);
    }
    print(&report);
    Ok(())
}

/// Returns the images per second that a rank needs by the plan.
fn needed(
    config: &RunConfig,
    kind: GpuKind,
    options: &DoctorOptions,
    mean_bytes: u64,
) -> Result<Option<f64>, CommandError> {
    let name = options.config.config.display().to_string();
    let request = plan_request(&name, config, kind, options.ranks, mean_bytes).map_err(refuse)?;
    let report = planned::report(&request, &kind.hardware()).map_err(refused)?;
    Ok(report.time.map(|time| time.images_per_second_per_gpu))
}

fn is_jpeg(source: &dyn ImageSource) -> Result<bool, crate::train::TrainError> {
    Ok(matches!(source.fetch(0)?, Fetched::File(bytes) if Format::of(&bytes) == Some(Format::Jpeg)))
}

fn print(report: &Report) {
    let Report { stages, latency, bandwidth, readers, measured, diagnosis, advice } = report;
    stages.print();
    let milliseconds = |seconds: f64| format!("{:.2} ms", seconds * 1e3);
    println!(
        "latency of one thread: median {}, 99 % within {}",
        milliseconds(latency.median_seconds),
        milliseconds(latency.slow_seconds)
    );
    let bytes = size(bandwidth.bytes_per_second as u64);
    println!("bandwidth of {readers} threads: {bytes}/s, {:.0} images/s", bandwidth.images_per_second);
    let line = |name: &str, rate: f64| println!("{name:<44}{rate:>10.0}");
    println!("\nimages a second");
    line("one thread", diagnosis.per_worker);
    line(&format!("a rank, by its {} threads", measured.workers), diagnosis.by_workers);
    line(&format!("a rank, by 1/{} of {} cores", measured.ranks_per_host, measured.cores), diagnosis.by_cores);
    line("a rank, by its share of the disk or store", diagnosis.by_fetching);
    line("a rank, with all of these limits", diagnosis.per_rank);
    if let Some(needed) = measured.needed {
        line("a rank needs, by the plan", needed);
        line(&format!("a host with {} ranks needs", measured.ranks_per_host), needed * measured.ranks_per_host as f64);
    }
    let name = match diagnosis.bottleneck {
        Bottleneck::None => "none: images are loaded fast enough",
        Bottleneck::Fetching => "the disk or store",
        Bottleneck::Decoding => "the processor, mostly decoding",
        Bottleneck::Scaling => "the processor, mostly scaling and cropping",
        Bottleneck::Noise => "the processor, mostly noise",
        Bottleneck::Workers => "too few threads",
    };
    println!("\nbottleneck: {name}");
    advice.iter().for_each(|advice| println!("  {advice}"));
}

/// Returns a remedy as a sentence.
fn advice(remedy: Remedy, config: &RunConfig) -> String {
    match remedy {
        Remedy::NumWorkers(number) => format!("--set data.num_workers={number}"),
        Remedy::Cache => "keep images on a local disk: data.cache".into(),
        Remedy::PackSmaller => {
            let (path, size) = (shell(&config.data.path), config.model.image_size);
            let labels = config.data.label_path.as_ref();
            let labels = labels.map_or_else(String::new, |labels| format!(" --label-path {}", shell(labels)));
            format!(
                "pack the images in the size of training: admiral data pack {path}{labels} --size {size} --out PLACE"
            )
        }
        Remedy::DecodeFast => "--set data.decode=fast, which changes pixels slightly".into(),
        Remedy::MoreCores => "use fewer ranks on each host, or hosts with more cores".into(),
    }
}
