//! The plan as text for the terminal.

use std::fmt::Write as _;

use crate::hardware::{GPUS_PER_NODE, GpuKind};
use crate::memory::Norms;
use crate::report::{MemoryVariant, Report, RunTime, Scaling, Shortage, Speed};

const GIB: f64 = (1_u64 << 30) as f64;

/// Formats the plan as text.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, report);
    out
}

fn write(out: &mut String, report: &Report) -> std::fmt::Result {
    let batch = &report.batch;
    let kind = report.hardware.kind;
    let (unit, units) = kind.units();
    writeln!(
        out,
        "{}: {} steps of {} images on {} {}, each in {} of {}",
        report.name,
        report.steps,
        batch.global_batch,
        batch.world_size,
        match kind {
            GpuKind::Cpu if batch.world_size == 1 => unit.to_owned(),
            GpuKind::Cpu => units.to_owned(),
            kind => kind.to_string(),
        },
        if batch.accumulation == 1 { "one pass".into() } else { format!("{} passes", batch.accumulation) },
        batch.microbatch
    )?;
    writeln!(out, "\nmemory of one {unit}, GiB")?;
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
    let most = gb(storage.checkpoint_bytes) * storage.most_checkpoints as f64;
    writeln!(out, "  at once, at most        {:>12}    {:.1} GB", storage.most_checkpoints, most)?;
    if !report.scaling.is_empty() {
        writeln!(out, "\n{} images a step on other numbers of {units}", batch.global_batch)?;
        writeln!(out, "  {units}  pass x passes    step, s  exposed, s   images/s       days  efficiency")?;
        report.scaling.iter().try_for_each(|row| scaling(out, row, units.len()))?;
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
    writeln!(out, "  This program normalizes {} there; the parts above are those of it.", norms_name(report.norms))?;
    report.shortage.as_ref().map_or(Ok(()), |lack| shortage(out, report, lack))
}

fn shortage(out: &mut String, report: &Report, lack: &Shortage) -> std::fmt::Result {
    let gib = |bytes: u64| bytes as f64 / GIB;
    let (unit, _) = report.hardware.kind.units();
    // Rounded up, so that it is never shown as 0.
    let missing = (100.0 * gib(lack.missing_bytes)).ceil() / 100.0;
    write!(out, "\nThis does not fit: {missing:.2} GiB are missing. ")?;
    let helps = if lack.options.is_empty() {
        format!("No option helps: one image a pass with checkpointing takes {:.2} GiB.", gib(lack.least_bytes))
    } else {
        format!("It would with {}.", lack.options.join(", or with "))
    };
    writeln!(out, "{helps} What follows holds for a {unit} that has enough.")
}

fn norms_name(norms: Norms) -> &'static str {
    match norms {
        Norms::Fused => "fused",
        Norms::Composed => "composed",
    }
}

fn variant(out: &mut String, row: &MemoryVariant) -> std::fmt::Result {
    let yes = |is: bool| if is { "yes" } else { "no" };
    writeln!(
        out,
        "  {:<13}  {:<13}  {:>25.1}  {:>10.2}  {:>4}  {:>18}",
        norms_name(row.norms),
        yes(row.checkpointing),
        row.activation_bytes_per_image as f64 / (1 << 20) as f64,
        row.total_bytes as f64 / GIB,
        row.fits.map_or("-", yes),
        row.largest_microbatch.map_or("-".into(), |most| most.to_string()),
    )
}

fn days(out: &mut String, report: &Report, time: &RunTime) -> std::fmt::Result {
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
        let hosts = report.batch.world_size.div_ceil(GPUS_PER_NODE);
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
    let (unit, _) = report.hardware.kind.units();
    row(&format!("{unit}-days"), format!("{:>12.2}", time.gpu_days))
}

/// Writes a row whose first column has `width` characters.
fn scaling(out: &mut String, row: &Scaling, width: usize) -> std::fmt::Result {
    if let Some(reason) = &row.refused {
        return writeln!(out, "  {:>width$}  {reason}", row.gpus);
    }
    let number = |value: Option<f64>, width: usize, places: usize| {
        value.map_or(String::new(), |value| format!("{value:>width$.places$}"))
    };
    let passes = format!("{} x {}", row.microbatch.unwrap_or(0), row.accumulation.unwrap_or(0));
    let mut notes = row.needs.as_ref().map_or(String::new(), |option| format!("  with {option}"));
    if row.fits == Some(false) {
        notes += "  does not fit";
    }
    writeln!(
        out,
        "  {:>width$}  {passes:>13}  {}  {}  {}  {}  {}{notes}",
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
    use crate::hardware::Hardware;
    use crate::report::plan;
    use crate::report::tests::request;

    fn format(kind: GpuKind, speed: Speed) -> String {
        text(&plan(&request(), &kind.hardware(), speed).unwrap_or_else(|error| panic!("{error}")))
    }

    #[test]
    fn the_table_shows_refused_numbers_of_gpus_and_the_memory_limit() {
        let text = format(GpuKind::V100, Speed::Mfu(0.4));
        assert!(text.contains("8  too few") && text.contains("40 % of 120 TFLOPS"), "{text}");
        assert!(text.contains("there is                       31.75"), "{text}");
        assert!(text.contains("100.0 %  with --set training.microbatch=32\n"), "{text}");
        assert!(!text.contains("not fit"), "{text}");
    }

    #[test]
    fn a_run_that_does_not_fit_is_reported_once_with_options() {
        let shown = |bytes| {
            let hardware = Hardware { memory_bytes: Some(bytes), ..GpuKind::V100.hardware() };
            let report = plan(&request(), &hardware, Speed::Mfu(0.4)).unwrap_or_else(|error| panic!("{error}"));
            (text(&report), report.memory.total)
        };
        let (_, total) = shown(1 << 40);
        let (less, _) = shown(total - (1 << 20));
        assert_eq!(less.matches("This does not fit: 0.01 GiB are missing. It would with --set").count(), 1, "{less}");
        assert!(less.contains("microbatch=32  does not fit\n"), "{less}");
        let (least, _) = shown(1 << 30);
        assert!(least.contains("No option helps: one image a pass with checkpointing takes "), "{least}");
    }

    #[test]
    fn a_cpu_plan_speaks_of_processes() {
        let hardware = Hardware { memory_bytes: Some(1 << 40), ..GpuKind::Cpu.hardware() };
        let report = plan(&request(), &hardware, Speed::Measured(2.0)).unwrap_or_else(|error| panic!("{error}"));
        let text = text(&report);
        assert!(text.contains("on 64 processes") && text.contains("process-days"), "{text}");
        assert!(!text.contains("GPU"), "{text}");
    }

    #[test]
    fn without_a_speed_the_benchmark_command_is_shown() {
        let text = format(GpuKind::Cpu, Speed::Unknown);
        assert!(text.contains("admiral bench step --config test") && !text.contains("-days"), "{text}");
    }
}
