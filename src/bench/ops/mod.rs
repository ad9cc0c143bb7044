//! `admiral bench ops`: the speed of the fused operations, compared with libtorch's operations and with the machine's
//! roofline, all measured in one run.

mod cases;
mod measured;

use clap::Args;
use serde::Serialize;
use tch::{Device, Kind};

use crate::bench::output::print_as;
use crate::bench::roofline::Roofline;
use crate::bench::timing::{Clock, Timing};
use crate::context::choose_device;
use crate::gpus::Gpus;
use crate::ops::{self, Kernels};
use crate::run_config::DeviceChoice;
use crate::statistics::Spread;
use crate::train::TrainError;

use measured::{FLOAT, Measured};

/// The options of `admiral bench ops`.
#[derive(Debug, Clone, Args)]
pub struct OpsBenchOptions {
    /// Device: auto (the first GPU if there is one, else the CPU), cpu or cuda
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Parameters in the optimizer's pass, in millions
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=4000))]
    parameters: u64,
    /// Numbers of threads to measure; on a GPU only the first
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2], value_parser = clap::value_parser!(i32).range(1..=1024))]
    threads: Vec<i32>,
    /// Rounds that are measured; their median is printed
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// Rounds of warm-up before them, which are not measured
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=1000))]
    warmup: u64,
    /// Measure CPU time divided by the number of threads instead of elapsed time, for a shared machine
    #[arg(long)]
    processor_time: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The measurements with one number of threads.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct WithThreads {
    threads: i32,
    #[serde(rename = "ceilings")]
    roofline: Roofline,
    operations: Vec<Measured>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Report {
    device: String,
    /// The kernels of the fused operations.
    kernels: String,
    clock: Clock,
    rounds: u64,
    warmup: u64,
    runs: Vec<WithThreads>,
}

/// Measures and prints.
///
/// # Errors
/// When the device is not available or libtorch fails, usually because it cannot allocate memory.
pub fn run(options: &OpsBenchOptions, gpus: &Gpus) -> Result<(), TrainError> {
    let clock = if options.processor_time { Clock::Processor } else { Clock::Wall };
    let device = choose_device(options.device, 0)?;
    if device.is_cuda() && options.processor_time {
        return Err(TrainError::Refused(
            "--processor-time measures CPU time, but a GPU does the work: leave it out, or give --device cpu".into(),
        ));
    }
    let kernels = Kernels::open(device, gpus);
    let timing = Timing { warmup: options.warmup as usize, rounds: options.rounds as usize, clock, device };
    // The half-precision type of training: V100s have no bfloat16, and CPUs have instructions for bfloat16 only.
    let half = if device.is_cuda() { Kind::Half } else { Kind::BFloat16 };
    let num_runs = if device.is_cuda() { 1 } else { options.threads.len() };
    let mut runs = Vec::new();
    for &threads in &options.threads[..num_runs] {
        tch::set_num_threads(threads);
        let roofline = Roofline::measure(half, timing)?;
        let operations = measure(&kernels, options.parameters, half, timing)?;
        runs.push(WithThreads { threads, roofline, operations });
    }
    let report = Report {
        device: format!("{device:?}"),
        kernels: kernels.choice().to_string(),
        clock,
        rounds: options.rounds,
        warmup: options.warmup,
        runs,
    };
    print_as(&report, options.json, print)
}

fn measure(kernels: &Kernels, millions: u64, half: Kind, timing: Timing) -> Result<Vec<Measured>, ops::Error> {
    let kinds = [Kind::Float, half];
    let mut all = vec![cases::adam(kernels, millions as i64 * 1_000_000, timing)?];
    for kind in kinds {
        for shape in cases::NORM_SHAPES {
            all.push(cases::group_norm(kernels, shape, kind, timing)?);
        }
    }
    if timing.device == Device::Cpu {
        for shape in cases::CONVOLUTION_SHAPES {
            all.push(cases::convolution(kernels, shape, timing)?);
        }
    }
    for kind in kinds {
        for shape in cases::ATTENTION_SHAPES {
            all.push(cases::attention(shape, kind, timing)?);
        }
    }
    Ok(all)
}

fn print(report: &Report) {
    let clock = match report.clock {
        Clock::Wall => "",
        Clock::Processor => " of processor time",
    };
    println!(
        "on {}: {}; medians{clock} of {} rounds after {} of warm-up, least and most in brackets",
        report.device, report.kernels, report.rounds, report.warmup
    );
    for run in &report.runs {
        println!();
        println!("threads: {}", run.threads);
        let half = run.operations.iter().map(|measured| measured.kind).find(|kind| *kind != FLOAT).unwrap_or_default();
        let rate = |name: &str, spread: &Spread, unit: &str| {
            let Spread { median, least, most } = spread;
            println!("{name:<24} {:>8.1} {unit} ({:.1} to {:.1})", median / 1e9, least / 1e9, most / 1e9);
        };
        rate("copy", &run.roofline.copy_bytes_per_second, "GB/s");
        rate("change in place", &run.roofline.in_place_bytes_per_second, "GB/s");
        rate("product, float32", &run.roofline.float_flops, "GFLOP/s");
        rate(&format!("product, {half}"), &run.roofline.half_flops, "GFLOP/s");
        for measured in &run.operations {
            print_one(measured, &run.roofline);
        }
    }
}

fn print_one(measured: &Measured, roofline: &Roofline) {
    let Measured { operation, case, kind, seconds, bytes, in_place, flops, against, ratio } = measured;
    println!("{operation}, {case}, {kind}");
    print!("    {:.3} ms ({:.3} to {:.3})", 1e3 * seconds.median, 1e3 * seconds.least, 1e3 * seconds.most);
    let share = 100.0 * measured.share(roofline).unwrap_or(f64::NAN);
    if let Some(bytes) = bytes {
        let reference = if *in_place { "changing in place" } else { "copying" };
        print!(", {:.1} GB/s, {share:.0} % of {reference}", *bytes as f64 / seconds.median / 1e9);
    }
    if let Some(flops) = flops {
        print!(", {:.1} GFLOP/s, {share:.0} % of the product", *flops as f64 / seconds.median / 1e9);
    }
    if let (Some(against), Some(Spread { median, least, most })) = (against, ratio) {
        print!("; {against}: {median:.2} times as long ({least:.2} to {most:.2})");
    }
    println!();
}
