//! `admiral bench ops`: how fast the fused operations are, against libtorch's own and against what memory and the
//! arithmetic units of this machine allow, all measured in one run.

pub(super) mod ceilings;
pub(super) mod contest;
mod subjects;

use clap::Args;
use serde::Serialize;
use tch::{Device, Kind};

use super::TrainError;
use super::bench::show;
use super::config::DeviceChoice;
use super::session::choose_device;
use crate::ops;

use ceilings::Ceilings;
pub use contest::Spread;
use contest::{Clock, Rules};

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

/// The name of the kind that is not a half kind.
const FLOAT: &str = "float32";

/// An operation in one case.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Measured {
    operation: &'static str,
    case: String,
    kind: &'static str,
    seconds: Spread,
    /// The bytes that it cannot do without reading and writing.
    bytes: Option<u64>,
    /// Whether most of them change where they lie.
    in_place: bool,
    flops: Option<u64>,
    /// What took `ratio` times as long.
    against: Option<String>,
    ratio: Option<Spread>,
}

/// All that was measured with one number of threads.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct WithThreads {
    threads: i32,
    ceilings: Ceilings,
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
pub fn run(options: &OpsBenchOptions) -> Result<(), TrainError> {
    let clock = if options.processor_time { Clock::Processor } else { Clock::Wall };
    let device = choose_device(options.device, 0)?;
    if device.is_cuda() && options.processor_time {
        return Err(TrainError::Refused(
            "--processor-time counts what processors do, and a GPU does the work: leave it out, or say --device cpu"
                .into(),
        ));
    }
    let rules = Rules { warmup: options.warmup as usize, rounds: options.rounds as usize, clock, device };
    // What networks train in: V100s know no bfloat16, and processors with instructions for it none for float16.
    let half = if device.is_cuda() { Kind::Half } else { Kind::BFloat16 };
    let num_runs = if device.is_cuda() { 1 } else { options.threads.len() };
    let mut runs = Vec::new();
    for &threads in &options.threads[..num_runs] {
        tch::set_num_threads(threads);
        let ceilings = Ceilings::of(half, rules)?;
        let operations = measure(options.parameters, half, rules)?;
        runs.push(WithThreads { threads, ceilings, operations });
    }
    let report = Report {
        device: format!("{device:?}"),
        kernels: ops::kernel_choice(device).to_string(),
        clock,
        rounds: options.rounds,
        warmup: options.warmup,
        runs,
    };
    show(&report, options.json, print)
}

fn measure(millions: u64, half: Kind, rules: Rules) -> Result<Vec<Measured>, ops::Error> {
    let kinds = [Kind::Float, half];
    let mut all = vec![subjects::adam(millions as i64 * 1_000_000, rules)?];
    for kind in kinds {
        for shape in subjects::NORM_SHAPES {
            all.push(subjects::group_norm(shape, kind, rules)?);
        }
    }
    if rules.device == Device::Cpu {
        for shape in subjects::CONVOLUTION_SHAPES {
            all.push(subjects::convolution(shape, rules)?);
        }
    }
    for kind in kinds {
        for shape in subjects::ATTENTION_SHAPES {
            all.push(subjects::attention(shape, kind, rules)?);
        }
    }
    Ok(all)
}

impl Measured {
    /// What part of the machine's ceiling was reached.
    fn share(&self, ceilings: &Ceilings) -> Option<f64> {
        let memory = if self.in_place { &ceilings.in_place_bytes_per_second } else { &ceilings.copy_bytes_per_second };
        let bytes = self.bytes.map(|bytes| bytes as f64 / self.seconds.median / memory.median);
        let rate = if self.kind == FLOAT { &ceilings.float_flops } else { &ceilings.half_flops };
        bytes.or(self.flops.map(|flops| flops as f64 / self.seconds.median / rate.median))
    }
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
        rate("copy", &run.ceilings.copy_bytes_per_second, "GB/s");
        rate("change in place", &run.ceilings.in_place_bytes_per_second, "GB/s");
        rate("product, float32", &run.ceilings.float_flops, "GFLOP/s");
        rate(&format!("product, {half}"), &run.ceilings.half_flops, "GFLOP/s");
        for measured in &run.operations {
            print_one(measured, &run.ceilings);
        }
    }
}

fn print_one(measured: &Measured, ceilings: &Ceilings) {
    let Measured { operation, case, kind, seconds, bytes, in_place, flops, against, ratio } = measured;
    println!("{operation}, {case}, {kind}");
    print!("    {:.3} ms ({:.3} to {:.3})", 1e3 * seconds.median, 1e3 * seconds.least, 1e3 * seconds.most);
    let share = 100.0 * measured.share(ceilings).unwrap_or(f64::NAN);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_ceiling_that_an_operation_meets() {
        let flat = |median: f64| Spread { median, least: median, most: median };
        let ceilings = Ceilings {
            copy_bytes_per_second: flat(1e9),
            in_place_bytes_per_second: flat(2e9),
            float_flops: flat(1e10),
            half_flops: flat(4e10),
        };
        let of_bytes = Measured {
            operation: "",
            case: String::new(),
            kind: FLOAT,
            seconds: flat(2.0),
            bytes: Some(1_000_000_000),
            in_place: false,
            flops: None,
            against: None,
            ratio: None,
        };
        assert_eq!(of_bytes.share(&ceilings), Some(0.5));
        assert_eq!(Measured { in_place: true, ..of_bytes.clone() }.share(&ceilings), Some(0.25));
        let of_flops = Measured { kind: "bfloat16", bytes: None, flops: Some(8_000_000_000), ..of_bytes };
        assert_eq!(of_flops.share(&ceilings), Some(0.1));
    }
}
