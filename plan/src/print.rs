//! The plan as a table for people.

use std::fmt::Write as _;

use super::hardware::GPUS_PER_NODE;
use super::memory::Norms;
use super::report::{Days, Report, Scaling, Speed, Variant};

const GIB: f64 = (1_u64 << 30) as f64;

/// The plan as text.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, report);
    out
}

fn write(out: &mut String, report: &Report) -> std::fmt::Result {
    let batch = &report.batch;
    writeln!(
        out,
        "{}: {} steps of {} images on {} {}, each in {} of {}",
        report.name,
        report.steps,
        batch.global_batch,
        batch.world,
        if report.hardware.memory_bytes.is_some() { report.hardware.kind.to_string() } else { "processes".into() },
        if batch.accumulation == 1 { "one pass".into() } else { format!("{} passes", batch.accumulation) },
        batch.microbatch
    )?;
    writeln!(out, "\nmemory of one {}, GiB", if report.hardware.memory_bytes.is_some() { "GPU" } else { "process" })?;
    memory(out, report)?;
    match &report.time {
        Some(time) => days(out, report, time)?,
        None => writeln!(
            out,
            "\ntime: nothing is known of how fast this is. Measure it with `admiral bench step --config {}` and one \
             process, and give its images/s with --images-per-second.",
            report.name
        )?,
    }
    let storage = &report.storage;
    writeln!(out, "\ncheckpoints")?;
    let gb = |bytes: u64| bytes as f64 / 1e9;
    writeln!(out, "  one                     {:>12.2} GB", gb(storage.checkpoint_bytes))?;
    writeln!(out, "  written in all          {:>12}", storage.num_saves)?;
    writeln!(out, "  at once, at most        {:>12}    {:.1} GB", storage.most_checkpoints, gb(storage.most_bytes))?;
    if !report.scaling.is_empty() {
        writeln!(out, "\n{} images a step on other numbers of GPUs", batch.global_batch)?;
        writeln!(out, "  GPUs  pass x passes    step, s  exposed, s   images/s       days  efficiency")?;
        report.scaling.iter().try_for_each(|row| scaling(out, row))?;
    }
    Ok(())
}

fn memory(out: &mut String, report: &Report) -> std::fmt::Result {
    let parts = &report.memory;
    for (name, bytes) in [
        ("parameters", parts.parameters),
        ("gradients", parts.gradients),
        ("sums of gradients", parts.sums),
        ("masters", parts.masters),
        ("moments", parts.moments),
        ("averages", parts.emas),
        ("activations", parts.activations),
        ("workspace", parts.workspace),
        ("total", parts.total),
    ] {
        writeln!(out, "  {name:<24}{:>12.2}", bytes as f64 / GIB)?;
    }
    if let Some(limit) = report.hardware.memory_bytes {
        writeln!(out, "  {:<24}{:>12.2}", "there is", limit as f64 / GIB)?;
    }
    writeln!(out, "\n  normalization  checkpointing  activations, MiB an image  total, GiB  fits  largest microbatch")?;
    report.variants.iter().try_for_each(|row| variant(out, row))?;
    writeln!(out, "  This program normalizes {} there; the parts above are those of it.", way(report.norms))
}

fn way(norms: Norms) -> &'static str {
    match norms {
        Norms::Fused => "fused",
        Norms::Composed => "composed",
    }
}

fn variant(out: &mut String, row: &Variant) -> std::fmt::Result {
    let yes = |is: bool| if is { "yes" } else { "no" };
    writeln!(
        out,
        "  {:<13}  {:<13}  {:>25.1}  {:>10.2}  {:>4}  {:>18}",
        way(row.norms),
        yes(row.checkpointing),
        row.activation_bytes_per_image as f64 / (1 << 20) as f64,
        row.total_bytes as f64 / GIB,
        row.fits.map_or("-", yes),
        row.largest_microbatch.map_or("-".into(), |most| most.to_string()),
    )
}

fn days(out: &mut String, report: &Report, time: &Days) -> std::fmt::Result {
    let from = match report.speed {
        Speed::Mfu(mfu) => format!(
            "{:.0} % of {:.0} TFLOPS",
            100.0 * mfu,
            report.hardware.peak_flops(report.memory.masters > 0) / 1e12
        ),
        Speed::Measured(rate) => format!("{rate} images/s of one by itself, as measured"),
        Speed::Paper => {
            let name = report.paper.map_or("", |row| row.name);
            format!("the paper's Table 7, {name} optimized, communication included")
        }
        Speed::Unknown => String::new(),
    };
    writeln!(out, "\ntime ({from})")?;
    let mut row = |name: &str, text: String| writeln!(out, "  {name:<24}{text}");
    if let Some(step) = &time.step {
        let hosts = report.batch.world.div_ceil(GPUS_PER_NODE);
        row("compute", format!("{:>12.4} s", step.compute_seconds))?;
        row("optimizer", format!("{:>12.4} s", step.optimizer_seconds))?;
        let sum = &step.all_reduce;
        row(
            "all-reduce",
            format!(
                "{:>12.4} s  over {hosts} hosts: ring {:.4} s, tree {:.4} s",
                sum.seconds(),
                sum.ring_seconds,
                sum.tree_seconds
            ),
        )?;
        row("  hidden by backward", format!("{:>12.4} s", step.hidden_seconds))?;
        row("  exposed", format!("{:>12.4} s", step.exposed_seconds))?;
    }
    row("step", format!("{:>12.4} s", time.step_seconds))?;
    row("images/s of one", format!("{:>12.2}", time.images_per_second_per_gpu))?;
    row("images/s of all", format!("{:>12.2}", time.images_per_second))?;
    let data = &time.data;
    row(
        "data to read",
        format!(
            "{:>12.2} MB/s  at {:.0} kB an image; {:.1} images/s of each host",
            data.megabytes_per_second,
            data.mean_image_bytes as f64 / 1e3,
            data.images_per_second_per_host
        ),
    )?;
    row("days", format!("{:>12.2}", time.days))?;
    row("GPU-days", format!("{:>12.2}", time.gpu_days))
}

fn scaling(out: &mut String, row: &Scaling) -> std::fmt::Result {
    if let Some(reason) = &row.refused {
        return writeln!(out, "  {:>4}  {reason}", row.gpus);
    }
    let number = |value: Option<f64>, width: usize, places: usize| {
        value.map_or(String::new(), |value| format!("{value:>width$.places$}"))
    };
    let passes = format!("{} x {}", row.microbatch.unwrap_or(0), row.accumulation.unwrap_or(0));
    writeln!(
        out,
        "  {:>4}  {passes:>13}  {}  {}  {}  {}  {}",
        row.gpus,
        number(row.step_seconds, 9, 4),
        number(row.exposed_seconds, 10, 4),
        number(row.images_per_second, 9, 1),
        number(row.days, 9, 2),
        number(row.efficiency.map(|part| 100.0 * part), 8, 1) + " %",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::request;
    use crate::{GpuKind, plan};

    fn shown(kind: GpuKind, speed: Speed) -> String {
        text(&plan(&request(), &kind.hardware(), speed).unwrap_or_else(|error| panic!("{error}")))
    }

    #[test]
    fn shows_refused_worlds_and_the_fit() {
        let text = shown(GpuKind::V100, Speed::Mfu(0.4));
        assert!(text.contains("8  too few") && text.contains("40 % of 120 TFLOPS"), "{text}");
        assert!(text.contains("there is                       31.75"), "{text}");
    }

    #[test]
    fn says_what_to_run_where_no_speed_is_known() {
        let text = shown(GpuKind::Cpu, Speed::Unknown);
        assert!(text.contains("admiral bench step --config test") && !text.contains("GPU-days"), "{text}");
    }
}
