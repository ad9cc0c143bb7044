//! `admiral bench ops`: how fast the fused operations are, against libtorch's own and against what memory and the
//! arithmetic units of this machine allow, all measured in one run.

mod cases;
mod measured;

use clap::Args;
use serde::Serialize;
use tch::{Device, Kind};

use crate::bench::output::print_as;
use crate::bench::roofline::Roofline;
use crate::bench::timing::{Clock, Rules};
use crate::context::choose_device;
use crate::gpus::Gpus;
use crate::ops::{self, Kernels};
use crate::run_config::DeviceChoice;
use crate::statistics::Spread;
use crate::train::TrainError;

use measured::{FLOAT, Measured};

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct OpsBenchOptions {
    /// Where: auto, which is the first GPU where there is one, cpu or cuda
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Parameters of the optimizer's pass, in millions
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=4000))]
    parameters: u64,
    /// Numbers of threads, each of which is measured; on a GPU only the first
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2], value_parser = clap::value_parser!(i32).range(1..=1024))]
    threads: Vec<i32>,
    /// Rounds that count, of which the median is printed
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// Rounds before them that do not
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=1000))]
    warmup: u64,
    /// Count processor time over the number of threads instead of the time that passes: for a machine that others share
    #[arg(long)]
    processor_time: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All that was measured with one number of threads.
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
    /// Whose kernels run the fused operations.
    kernels: String,
    clock: Clock,
    rounds: u64,
    warmup: u64,
    runs: Vec<WithThreads>,
}

/// Measures and prints.
///
/// # Errors
/// When libtorch refuses, for want of memory above all.
pub fn run(options: &OpsBenchOptions, gpus: &Gpus) -> Result<(), TrainError> {
    let clock = if options.processor_time { Clock::Processor } else { Clock::Wall };
    let device = choose_device(options.device, 0)?;
    if device.is_cuda() && options.processor_time {
        return Err(TrainError::Refused(
            "--processor-time counts what processors do, and a GPU does the work: leave it out, or say --device cpu"
                .into(),
        ));
    }
    let kernels = Kernels::open(device, gpus);
    let rules = Rules { warmup: options.warmup as usize, rounds: options.rounds as usize, clock, device };
    // What networks train in: V100s know no bfloat16, and processors with instructions for it none for float16.
    let half = if device.is_cuda() { Kind::Half } else { Kind::BFloat16 };
    let num_runs = if device.is_cuda() { 1 } else { options.threads.len() };
    let mut runs = Vec::new();
    for &threads in &options.threads[..num_runs] {
        tch::set_num_threads(threads);
        let roofline = Roofline::of(half, rules)?;
        let operations = measure(&kernels, options.parameters, half, rules)?;
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

fn measure(kernels: &Kernels, millions: u64, half: Kind, rules: Rules) -> Result<Vec<Measured>, ops::Error> {
    let kinds = [Kind::Float, half];
    let mut all = vec![cases::adam(kernels, millions as i64 * 1_000_000, rules)?];
    for kind in kinds {
        for shape in cases::NORM_SHAPES {
            all.push(cases::group_norm(kernels, shape, kind, rules)?);
        }
    }
    if rules.device == Device::Cpu {
        for shape in cases::CONVOLUTION_SHAPES {
            all.push(cases::convolution(kernels, shape, rules)?);
        }
    }
    for kind in kinds {
        for shape in cases::ATTENTION_SHAPES {
            all.push(cases::attention(shape, kind, rules)?);
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
        let half = run.operations.iter().map(|of| of.kind).find(|kind| *kind != FLOAT).unwrap_or_default();
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
        let what = if *in_place { "changing in place" } else { "copying" };
        print!(", {:.1} GB/s, {share:.0} % of {what}", *bytes as f64 / seconds.median / 1e9);
    }
    if let Some(flops) = flops {
        print!(", {:.1} GFLOP/s, {share:.0} % of the product", *flops as f64 / seconds.median / 1e9);
    }
    if let (Some(against), Some(Spread { median, least, most })) = (against, ratio) {
        print!("; {against}: {median:.2} times as long ({least:.2} to {most:.2})");
    }
    println!();
}
