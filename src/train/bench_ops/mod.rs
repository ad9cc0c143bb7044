//! `admiral bench ops`: how fast the fused operations are, against libtorch's own and against what memory and the
//! arithmetic units of this machine allow, all measured in one run.

mod contest;
mod subjects;

use clap::Args;
use serde::Serialize;
use tch::Kind;

use super::TrainError;
use super::bench::show;
use crate::ops::bridge;

pub use contest::Spread;
use contest::{Clock, Rules};

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct OpsBenchOptions {
    /// Parameters of the optimizer's pass, in millions
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=4000))]
    parameters: u64,
    /// Numbers of threads, each of which is measured
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

/// What the machine can do at most, as far as libtorch reaches it.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Ceilings {
    /// Bytes read and bytes written while memory is copied.
    copy_bytes_per_second: Spread,
    /// The same while values change where they lie, which moves more: nothing new is fetched to be overwritten.
    in_place_bytes_per_second: Spread,
    /// A product of two square matrices of 2048, float32.
    float_flops: Spread,
    /// The same in bfloat16.
    bfloat16_flops: Spread,
}

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
    instruction_set: &'static str,
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
    let rules = Rules { warmup: options.warmup as usize, rounds: options.rounds as usize, clock };
    let mut runs = Vec::new();
    for &threads in &options.threads {
        tch::set_num_threads(threads);
        runs.push(WithThreads { threads, ceilings: subjects::ceilings(rules)?, operations: Vec::new() });
        let operations = measure(options, rules)?;
        if let Some(run) = runs.last_mut() {
            run.operations = operations;
        }
    }
    let report = Report {
        instruction_set: bridge::instruction_set(),
        clock,
        rounds: options.rounds,
        warmup: options.warmup,
        runs,
    };
    show(&report, options.json, print)
}

fn measure(options: &OpsBenchOptions, rules: Rules) -> Result<Vec<Measured>, crate::ops::Error> {
    const KINDS: [Kind; 2] = [Kind::Float, Kind::BFloat16];
    let mut all = vec![subjects::adam(options.parameters as i64 * 1_000_000, rules)?];
    for kind in KINDS {
        for shape in subjects::NORM_SHAPES {
            all.push(subjects::group_norm(shape, kind, rules)?);
        }
    }
    for kind in KINDS {
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
        let rate = if self.kind == "float32" { &ceilings.float_flops } else { &ceilings.bfloat16_flops };
        bytes.or(self.flops.map(|flops| flops as f64 / self.seconds.median / rate.median))
    }
}

fn print(report: &Report) {
    let clock = match report.clock {
        Clock::Wall => "",
        Clock::Processor => " of processor time",
    };
    println!(
        "kernels for {}; medians{clock} of {} rounds after {} of warm-up, least and most in brackets",
        report.instruction_set, report.rounds, report.warmup
    );
    for run in &report.runs {
        println!();
        println!("threads: {}", run.threads);
        let rate = |name: &str, spread: &Spread, unit: &str| {
            let Spread { median, least, most } = spread;
            println!("{name:<24} {:>8.1} {unit} ({:.1} to {:.1})", median / 1e9, least / 1e9, most / 1e9);
        };
        rate("copy", &run.ceilings.copy_bytes_per_second, "GB/s");
        rate("change in place", &run.ceilings.in_place_bytes_per_second, "GB/s");
        rate("product, float32", &run.ceilings.float_flops, "GFLOP/s");
        rate("product, bfloat16", &run.ceilings.bfloat16_flops, "GFLOP/s");
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
            bfloat16_flops: flat(4e10),
        };
        let of_bytes = Measured {
            operation: "",
            case: String::new(),
            kind: "float32",
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
