//! `admiral bench step`: the time of a training step and of its parts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use admiral_comm::{Ending, ExitCode, agree, in_turns};
use clap::Args;
use serde::Serialize;

use crate::context::{RankContext, RunContext};
use crate::model::flops::V100_FLOPS;
use crate::ops::bridge;
use crate::run_config::{PrecisionMode, RunConfig};
use crate::statistics::{Spread, median};
use crate::train::{FlatMemory, OpenedSession, Segment, Session, StepTimes, TrainError, images_record};

use super::memory::peak_bytes;
use super::output::print_on_root;
use super::roofline;
use super::timing::{Clock, Timing};

/// The options of `admiral bench step`.
#[derive(Debug, Clone, Args)]
pub struct BenchOptions {
    /// Steps that are measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    steps: u64,
    /// Steps of warm-up before them, which are not measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    warmup: u64,
    /// Write a Chrome trace of one more step on rank 0 to this file, and count its layout copies
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Medians over the measured steps, on rank 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Measured {
    ranks: usize,
    device: String,
    threads: i32,
    precision: PrecisionMode,
    global_batch: u64,
    microbatch: u64,
    steps: u64,
    step_seconds: f64,
    fastest_step_seconds: f64,
    slowest_step_seconds: f64,
    images_per_second: f64,
    data_seconds: f64,
    forward_seconds: f64,
    backward_seconds: f64,
    /// Waiting for the all-reduce, including waiting for ranks that start it later.
    all_reduce_seconds: f64,
    /// The all-reduce itself, hidden behind backward or not.
    all_reduce_busy_seconds: f64,
    /// The part of it that backward does not hide.
    all_reduce_exposed_seconds: f64,
    optimizer_seconds: f64,
    /// The bytes that the optimizer must read and write: see [`optimizer_bytes`].
    optimizer_bytes: u64,
    /// The peak resident memory of the process, in bytes, read when the steps end and before the roofline is measured.
    /// `None` if the system does not report it.
    peak_memory_bytes: Option<u64>,
    /// The bytes read and written per second by a copy of memory, measured after the steps.
    copy_bytes_per_second: Spread,
    /// The copies of tensors to another layout, type or device in the traced step, or `None` if no step was traced.
    copies: Option<Vec<Copies>>,
    /// The part of a V100's peak that each rank reaches, if a step counts as three forward passes.
    part_of_v100_peak: f64,
    /// The rate of a product of large square matrices in the run's precision, measured after the steps.
    matrix_flops_per_second: Spread,
    /// The part of that rate that each rank reaches, if a step counts as three forward passes. It can exceed 1 on a
    /// CPU, because Winograd's convolutions do fewer products than are counted.
    part_of_matrix_rate: f64,
}

/// The copies within one operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Copies {
    /// The operation, or empty if the program itself copies.
    within: String,
    calls: u64,
    elements: u64,
    seconds: f64,
}

/// The operation that libtorch calls for every copy to another layout, device or type.
const COPY: &str = "aten::copy_";

/// Takes training steps on the configured data, writes nothing, and prints how long they took. Every rank calls it.
///
/// # Errors
/// When the run cannot start or a step fails. The [`Ending`] says whether the ranks leave together.
pub fn step(mut config: RunConfig, options: &BenchOptions, rank: RankContext<'_>) -> Result<(), Ending> {
    let collective = rank.collective;
    config.training.steps = options.warmup + options.steps + u64::from(options.trace.is_some());
    let stores = rank.environment.store_options();
    let open = || admiral_data::open(&config.data, config.run.seed, &stores);
    let sources = in_turns(collective, open, |_| ExitCode::Config)?;
    let trace = options.trace.as_deref().filter(|_| collective.rank() == 0);
    agree(collective, trace.map_or(Ok(()), check_writable), |_| ExitCode::Config)?;
    let context = RunContext::open(rank, &config).map_err(TrainError::from);
    let context = agree(collective, context, TrainError::exit_code)?;
    context.log_kernels();
    let last_step = config.training.steps;
    let images = images_record(&*sources.train);
    let session = OpenedSession::open(config, sources, images, &context);
    let session = agree(collective, session, TrainError::exit_code)?;
    let mut session = session.start(&context, last_step)?;
    let measured = measure(&mut session, options, &context);
    let measured = measured.map_err(TrainError::ending)?;
    session.state.trainer.finish()?;
    print_on_root(&measured, options.json, print, collective)
}

/// Checks that the file of the trace can be written. libtorch's profiler only writes it at the end.
fn check_writable(path: &Path) -> Result<(), TrainError> {
    std::fs::File::create(path).map(drop).map_err(|error| {
        TrainError::Refused(format!(
            "--trace {} cannot be written: {error}; name a file in a folder that exists",
            path.display()
        ))
    })
}

fn measure(session: &mut Session, options: &BenchOptions, context: &RunContext<'_>) -> Result<Measured, TrainError> {
    session.state.trainer.measure = true;
    for _ in 0..options.warmup {
        session.step(context)?;
    }
    let mut steps = Vec::new();
    let mut parts: Vec<StepTimes> = Vec::new();
    for _ in 0..options.steps {
        let start = Instant::now();
        let report = session.step(context)?;
        steps.push(start.elapsed().as_secs_f64());
        parts.push(report.times);
    }
    let peak_memory_bytes = peak_bytes();
    let copies = options.trace.as_deref().map(|path| trace(session, path, context)).transpose()?;
    let part = |choose: fn(&StepTimes) -> Duration| median(parts.iter().map(|times| choose(times).as_secs_f64()));
    let spread = Spread::of(steps.iter().copied());
    let step_seconds = spread.median;
    let training = &session.state.config.training;
    let images_per_second = training.global_batch as f64 / step_seconds;
    let flops = 3.0 * session.state.trainer.network.forward_flops() as f64 * images_per_second;
    let world_size = context.collective.world_size();
    let timing = Timing { warmup: 3, rounds: 5, clock: Clock::Wall, device: context.device };
    let [copy_bytes_per_second, _] = roofline::memory(timing)?;
    let matrix_flops_per_second = roofline::product(session.state.config.precision.mode.kind(), timing)?;
    Ok(Measured {
        ranks: world_size,
        device: format!("{:?}", context.device),
        threads: tch::get_num_threads(),
        precision: session.state.config.precision.mode,
        global_batch: training.global_batch,
        microbatch: session.division().microbatch,
        steps: options.steps,
        step_seconds,
        fastest_step_seconds: spread.least,
        slowest_step_seconds: spread.most,
        images_per_second,
        data_seconds: part(|times| times.data),
        forward_seconds: part(|times| times.forward),
        backward_seconds: part(|times| times.backward),
        all_reduce_seconds: part(|times| times.all_reduce),
        all_reduce_busy_seconds: part(|times| times.all_reduce_busy),
        all_reduce_exposed_seconds: part(|times| times.all_reduce_exposed),
        optimizer_seconds: part(|times| times.optimizer),
        optimizer_bytes: optimizer_bytes(&session.state.trainer.memory, world_size),
        peak_memory_bytes,
        copy_bytes_per_second,
        copies,
        part_of_v100_peak: flops / world_size as f64 / V100_FLOPS,
        matrix_flops_per_second,
        part_of_matrix_rate: flops / world_size as f64 / matrix_flops_per_second.median,
    })
}

/// Returns the bytes that an update of all parameters reads and writes. The norms read gradient and master. The update
/// reads the gradient, writes the half-precision copy, and reads and writes master, mean, variance and EMAs. With
/// several ranks the gradients are float32 sums.
fn optimizer_bytes(memory: &FlatMemory, world_size: usize) -> u64 {
    let segment_bytes = |segment: &Segment| {
        let half = if segment.is_half() { 2 } else { 0 };
        let gradient = if segment.is_half() && world_size == 1 { 2 } else { 4 };
        let read_and_written = 3 + segment.emas.len() as u64;
        segment.master.numel() as u64 * (2 * gradient + 4 + half + 2 * 4 * read_and_written)
    };
    memory.segments().iter().map(segment_bytes).sum()
}

/// Takes one more step under libtorch's profiler. Rank 0 writes the trace to `path` and returns its copies.
fn trace(session: &mut Session, path: &Path, context: &RunContext<'_>) -> Result<Vec<Copies>, TrainError> {
    let is_root = context.collective.rank() == 0;
    let cuda = context.device.is_cuda();
    let (outcome, calls) = bridge::profile(is_root.then_some(path), cuda, || session.step(context))?;
    outcome?;
    let copies = calls.into_iter().filter(|calls| calls.name == COPY).map(|calls| Copies {
        within: calls.within,
        calls: calls.count,
        elements: calls.elements,
        seconds: calls.time.as_secs_f64(),
    });
    let mut copies: Vec<Copies> = copies.collect();
    copies.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Ok(copies)
}

fn print(measured: &Measured) {
    let row = |name: &str, seconds: f64| {
        println!("{name:<12} {:>10.2} ms {:>6.1} %", 1e3 * seconds, 100.0 * seconds / measured.step_seconds);
    };
    println!(
        "ranks: {}, on {}; threads of each: {}; {:?}, batch {} in passes of {}; medians of {} steps",
        measured.ranks,
        measured.device,
        measured.threads,
        measured.precision,
        measured.global_batch,
        measured.microbatch,
        measured.steps
    );
    row("step", measured.step_seconds);
    row("  data", measured.data_seconds);
    row("  forward", measured.forward_seconds);
    row("  backward", measured.backward_seconds);
    row("  all-reduce", measured.all_reduce_seconds);
    row("  optimizer", measured.optimizer_seconds);
    row("fastest", measured.fastest_step_seconds);
    row("slowest", measured.slowest_step_seconds);
    let optimizer_rate = measured.optimizer_bytes as f64 / measured.optimizer_seconds;
    println!(
        "the optimizer moves {:.1} MB, {:.1} GB/s, {:.0} % of copying memory, {:.1} GB/s ({:.1} to {:.1})",
        measured.optimizer_bytes as f64 / 1e6,
        optimizer_rate / 1e9,
        100.0 * optimizer_rate / measured.copy_bytes_per_second.median,
        measured.copy_bytes_per_second.median / 1e9,
        measured.copy_bytes_per_second.least / 1e9,
        measured.copy_bytes_per_second.most / 1e9
    );
    if measured.ranks > 1 {
        let exposed = 100.0 * measured.all_reduce_exposed_seconds / measured.all_reduce_busy_seconds;
        println!(
            "all-reduce takes {:.2} ms, of which {exposed:.0} % are not hidden behind backward",
            1e3 * measured.all_reduce_busy_seconds
        );
    }
    for Copies { within, calls, elements, seconds } in measured.copies.iter().flatten() {
        let within = if within.is_empty() { "the program" } else { within };
        println!("{:>8.2} ms in {calls} copies of {elements} values for {within}", 1e3 * seconds);
    }
    println!("images/s     {:>10.2}", measured.images_per_second);
    if let Some(bytes) = measured.peak_memory_bytes {
        println!("peak memory  {:>10.1} MB", bytes as f64 / 1e6);
    }
    println!("of a V100's peak {:>8.3} %", 100.0 * measured.part_of_v100_peak);
    println!(
        "{:.1} % of the rate of a product of matrices here, {:.2} TFLOP/s per rank ({:.2} to {:.2})",
        100.0 * measured.part_of_matrix_rate,
        measured.matrix_flops_per_second.median / 1e12,
        measured.matrix_flops_per_second.least / 1e12,
        measured.matrix_flops_per_second.most / 1e12
    );
}
