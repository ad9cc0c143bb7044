//! `admiral bench checkpoint`: how long a save stalls training, and how fast checkpoints are written and read.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use admiral_checkpoint::{
    Catalog, Content, SaveEvent, Saver, SaverSettings, TrainingState, delete, delete_place, identify,
};
use admiral_comm::{Collective, Ending};
use admiral_config::format_mistakes;
use admiral_storage::{Location, Store};
use clap::Args;
use serde::Serialize;
use tch::Kind;

use crate::context::{RankContext, choose_device};
use crate::model::Network;
use crate::run_config::RunConfig;
use crate::statistics::median;
use crate::train::{FlatMemory, TrainError, copy_share, parameters, read_roles, roles, sum_reports};

use super::memory::{peak, reset_peak, resident};
use super::output::print_on_root;

/// The time between two polls of a save.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The options of `admiral bench checkpoint`.
#[derive(Debug, Clone, Args)]
pub struct CheckpointBenchOptions {
    /// Where to save: a folder or a bucket's URL; by default a folder in the run's folder. The checkpoints are deleted
    #[arg(long)]
    place: Option<String>,
    /// Saves that are measured
    #[arg(long, default_value_t = 3)]
    saves: u64,
    /// Before each save to a folder, write and fsync the same number of bytes there with dd, for comparison
    #[arg(long)]
    dd: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Medians over the saves, on rank 0. The memory is the maximum over all ranks.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Measured {
    url: String,
    ranks: usize,
    parameters: u64,
    checkpoint_bytes: u64,
    share_bytes: u64,
    saves: usize,
    /// One copy of this rank's share in memory.
    copy_seconds: f64,
    stall_seconds: f64,
    total_seconds: f64,
    bytes_per_second: f64,
    dd_bytes_per_second: Option<f64>,
    /// The median of each save's speed divided by the speed of the dd before it.
    part_of_dd: Option<f64>,
    /// The peak of host memory during saves, beyond the memory of training.
    extra_memory_bytes: u64,
    extra_memory_of_share: f64,
    read_seconds: f64,
    read_bytes_per_second: f64,
}

/// Saves and reads a network's training state, and prints the cost. Nothing is trained. Every rank calls it.
///
/// # Errors
/// When a save or the read fails, on this rank alone.
pub fn checkpoint(config: &RunConfig, options: &CheckpointBenchOptions, rank: RankContext<'_>) -> Result<(), Ending> {
    let collective = rank.collective;
    // The other ranks do not learn of a failure here, so this rank must end alone.
    let measured = measure(config, options, rank).map_err(|error| Ending::alone(error.exit_code(), &error))?;
    print_on_root(&measured, options.json, print, collective)
}

fn measure(
    config: &RunConfig,
    options: &CheckpointBenchOptions,
    rank: RankContext<'_>,
) -> Result<Measured, TrainError> {
    let (collective, environment) = (rank.collective, rank.environment);
    let folder = PathBuf::from(&config.run.folder).join("bench-checkpoint");
    let location = match &options.place {
        Some(place) => Location::parse(place)?,
        None => Location::Folder(folder),
    };
    let device = choose_device(config.run.device, collective.local_rank())?;
    let spec = config.network_spec().map_err(|mistakes| TrainError::Refused(format_mistakes(&mistakes)))?;
    let (_, specs) = Network::build(&spec);
    let rates = &config.optimizer.ema_rates;
    let memory = FlatMemory::allocate(specs, Kind::Float, rates.len(), device)?;
    fill(&memory);

    let store = Store::create(&location, &config.checkpoint.store_options(&environment.clouds))?;
    let catalog = Catalog::new(&store);
    if catalog.latest()?.is_some() {
        return Err(TrainError::Refused(format!(
            "{} holds checkpoints; a benchmark must not write to the same location: give another --place",
            store.url("")
        )));
    }
    let before = resident(&reset_peak());
    let saver_settings = SaverSettings {
        writer: identify(None, collective)?,
        roles: roles(rates),
        parameters: Arc::new(parameters(memory.specs())),
        resumed_from: None,
        ended_attempts: environment.ended_attempts.clone(),
    };
    let mut saver = Saver::open(&store, &config.checkpoint, saver_settings, collective)?;
    let (mut stalls, mut totals, mut dds) = (Vec::new(), Vec::new(), Vec::new());
    for step in 1..=options.saves.max(1) {
        if let (Location::Folder(folder), true, 0) = (&location, options.dd, collective.rank()) {
            dds.push(dd(folder, saver.total_bytes())?);
        }
        collective.barrier()?;
        let start = Instant::now();
        let content = content(config, &memory, &saver, step)?;
        copy_share(&memory, rates, content, &mut saver, start)?;
        stalls.push(start.elapsed().as_secs_f64());
        totals.push(wait(&mut saver, collective)?);
        if step > 1 && collective.rank() == 0 {
            delete(&store, step - 1)?;
        }
    }
    let extra = peak(&reset_peak()).saturating_sub(before);
    let all: Vec<u64> = collective
        .all_gather(&extra.to_le_bytes())?
        .iter()
        .filter_map(|bytes| bytes.as_slice().try_into().ok().map(u64::from_le_bytes))
        .collect();
    let extra = all.into_iter().max().unwrap_or(extra);
    let share_bytes = saver.share_bytes();
    let copy_seconds = median((0..3).map(|_| copy_once(share_bytes)));
    let last = catalog.checkpoint_on_all_ranks(options.saves.max(1), collective)?;
    let start = Instant::now();
    read_roles(&memory, rates, &last, collective)?;
    let read_seconds = start.elapsed().as_secs_f64();
    drop(saver);
    if collective.rank() == 0 {
        delete(&store, options.saves.max(1))?;
        delete_place(&store)?;
    }
    let bytes = last.manifest().files.iter().map(|file| file.length).sum::<u64>();
    let total_seconds = median(totals.iter().copied());
    let parts: Vec<f64> = totals.iter().zip(&dds).map(|(total, dd)| dd / total).collect();
    Ok(Measured {
        url: store.url(""),
        ranks: collective.world_size(),
        parameters: memory.specs().num_elements() as u64,
        checkpoint_bytes: bytes,
        share_bytes,
        saves: totals.len(),
        copy_seconds,
        stall_seconds: median(stalls.iter().copied()),
        total_seconds,
        bytes_per_second: bytes as f64 / total_seconds,
        dd_bytes_per_second: (!dds.is_empty()).then(|| bytes as f64 / median(dds.iter().copied())),
        part_of_dd: (!parts.is_empty()).then(|| median(parts.iter().copied())),
        extra_memory_bytes: extra,
        extra_memory_of_share: extra as f64 / share_bytes as f64,
        read_seconds,
        read_bytes_per_second: bytes as f64 / read_seconds,
    })
}

/// Fills the buffers with random values, so that no disk can compress them.
fn fill(memory: &FlatMemory) {
    let _no_grad = tch::no_grad_guard();
    for segment in memory.segments() {
        let buffers = [&segment.master, &segment.mean, &segment.variance];
        for buffer in buffers.into_iter().chain(&segment.emas) {
            let _ = buffer.shallow_clone().uniform_(-1.0, 1.0);
        }
    }
}

fn content(config: &RunConfig, memory: &FlatMemory, saver: &Saver, step: u64) -> Result<Content, TrainError> {
    Ok(Content {
        writer: saver.writer().clone(),
        task: config.task.name().to_owned(),
        configuration: serde_json::to_value(config).map_err(|error| TrainError::Bug(error.to_string()))?,
        training: TrainingState {
            step,
            next_sample_index: step * config.training.global_batch,
            optimizer_steps: step,
            lg_loss_scale: None,
            timestep_sampler: None,
            images: None,
        },
        parameters: Arc::new(parameters(memory.specs())),
    })
}

/// Completes a save. Returns the seconds from its begin to its publication.
fn wait(saver: &mut Saver, collective: &dyn Collective) -> Result<f64, TrainError> {
    let mut published = None;
    while saver.is_busy() {
        let summed = sum_reports(saver.report(Instant::now()), collective)?;
        match saver.advance(summed, Instant::now(), collective)? {
            Some(SaveEvent::Published { seconds, .. }) => published = Some(seconds),
            Some(SaveEvent::Failed { error, .. }) => return Err(error.into()),
            Some(SaveEvent::Deleted { .. } | SaveEvent::NotTidied { .. }) | None => {}
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    published.ok_or_else(|| TrainError::Bug("a save has ended and is not published".into()))
}

/// Returns the seconds that `dd` takes to write and fsync `bytes` in `folder`.
fn dd(folder: &Path, bytes: u64) -> Result<f64, TrainError> {
    let file = folder.join("dd-trial");
    let start = Instant::now();
    let status = Command::new("dd")
        .args(["if=/dev/zero", "bs=8M", "conv=fsync", "iflag=count_bytes"])
        .arg(format!("count={bytes}"))
        .arg(format!("of={}", file.display()))
        .stderr(Stdio::null())
        .status();
    let seconds = start.elapsed().as_secs_f64();
    let _ = std::fs::remove_file(&file);
    match status {
        Ok(status) if status.success() => Ok(seconds),
        Ok(status) => Err(TrainError::Refused(format!("dd could not write {}: {status}", file.display()))),
        Err(error) => Err(TrainError::Refused(format!("dd cannot be started: {error}; leave --dd out"))),
    }
}

/// Returns the seconds of one copy of `bytes` in memory by libtorch's threads.
fn copy_once(bytes: u64) -> f64 {
    let _no_grad = tch::no_grad_guard();
    // Copies a quarter four times, because the machine may have no memory for two more shares.
    let elements = (bytes / 16).max(1) as i64;
    let options = (Kind::Float, tch::Device::Cpu);
    let (from, mut to) = (tch::Tensor::ones([elements], options), tch::Tensor::ones([elements], options));
    let start = Instant::now();
    for _ in 0..4 {
        to.copy_(&from);
    }
    start.elapsed().as_secs_f64()
}

fn print(m: &Measured) {
    let gigabytes = |bytes: f64| bytes / 1e9;
    println!(
        "{} parameters, {:.2} GB of state, {} ranks, {}; medians of {} saves",
        m.parameters,
        gigabytes(m.checkpoint_bytes as f64),
        m.ranks,
        m.url,
        m.saves
    );
    println!(
        "stall             {:>9.3} s   {:.2} copies of the share in memory",
        m.stall_seconds,
        m.stall_seconds / m.copy_seconds
    );
    println!("copy in memory    {:>9.3} s", m.copy_seconds);
    println!("until published   {:>9.3} s   {:.3} GB/s", m.total_seconds, gigabytes(m.bytes_per_second));
    if let (Some(dd), Some(part)) = (m.dd_bytes_per_second, m.part_of_dd) {
        println!("dd with fsync                 {:.3} GB/s; saves reach {:.0} % of it", gigabytes(dd), 100.0 * part);
    }
    println!(
        "extra memory      {:>9.3} GB  {:.3} of a rank's share",
        gigabytes(m.extra_memory_bytes as f64),
        m.extra_memory_of_share
    );
    println!("read and verified {:>9.3} s   {:.3} GB/s", m.read_seconds, gigabytes(m.read_bytes_per_second));
}
