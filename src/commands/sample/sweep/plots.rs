//! The plots of a sweep, as in the paper's Figures 2, 4 and 5: what the metrics of its cells depend on.

use admiral_plots::{LinePlot, Series};
use admiral_storage::Store;

use crate::sample::Error;

use super::table::Row;

/// A setting of a cell, as text.
type Setting = fn(&Row) -> String;

/// The settings in which cells can differ, with words for the legend.
const SETTINGS: [Setting; 5] = [
    |row| format!("{} {}", run_of(&row.checkpoint), row.weights),
    |row| format!("step {}", row.step),
    |row| row.sampler.clone(),
    |row| format!("{} timesteps", row.timesteps),
    |row| row.scale.map_or_else(|| "unguided".into(), |scale| format!("scale {scale}")),
];

/// The places in [`SETTINGS`] of the step of the checkpoint, the timesteps and the scale.
const CHECKPOINT: usize = 1;
const TIMESTEPS: usize = 3;
const SCALE: usize = 4;

/// Returns the location of the run of a checkpoint: what comes before the folder of its step, without `checkpoints`.
fn run_of(checkpoint: &str) -> &str {
    let run = checkpoint.rsplit_once("/step-").map_or(checkpoint, |(run, _)| run);
    run.strip_suffix("/checkpoints").unwrap_or(run)
}

/// A kind of plot.
struct Kind {
    /// The name of the files, without extension.
    file: &'static str,
    title: &'static str,
    names: [&'static str; 2],
    log_x: bool,
    /// The setting that varies along a line. Cells that differ in another one are on different lines.
    along: usize,
    /// The point of a cell. `None` if the cell lacks a value.
    point: fn(&Row) -> Option<(f64, f64)>,
}

const KINDS: [Kind; 5] = [
    Kind {
        file: "fid-steps",
        title: "FID against training steps",
        names: ["training steps", "FID"],
        log_x: false,
        along: CHECKPOINT,
        point: |row| Some(row.step as f64).zip(row.metric("fid")),
    },
    Kind {
        file: "fid-scale",
        title: "FID against the guidance scale",
        names: ["guidance scale", "FID"],
        log_x: false,
        along: SCALE,
        point: |row| row.scale.zip(row.metric("fid")),
    },
    Kind {
        file: "precision-recall",
        title: "Precision against recall",
        names: ["recall", "precision"],
        log_x: false,
        along: SCALE,
        point: |row| row.metric("recall").zip(row.metric("precision")),
    },
    Kind {
        file: "fid-evaluations",
        title: "FID against network evaluations",
        names: ["evaluations of networks for one image", "FID"],
        log_x: true,
        along: TIMESTEPS,
        point: |row| Some((row.evaluations + row.guidance_evaluations) as f64).zip(row.metric("fid")),
    },
    Kind {
        file: "fid-seconds",
        title: "FID against sampling time",
        names: ["seconds for one image", "FID"],
        log_x: true,
        along: TIMESTEPS,
        point: |row| row.images_per_second.map(|speed| 1.0 / speed).zip(row.metric("fid")),
    },
];

/// Writes the plots that the rows have points for, as PNG and SVG.
///
/// # Errors
/// When the store refuses or does not answer.
pub(super) fn write(store: &Store, rows: &[Row]) -> Result<(), Error> {
    for (file, plot) in plots(rows) {
        let bug = |error: admiral_plots::Error| Error::Bug(error.to_string());
        let (png, svg) = (plot.png().map_err(bug)?, plot.svg().map_err(bug)?);
        for (path, bytes) in [(format!("{file}.png"), png), (format!("{file}.svg"), svg.into_bytes())] {
            store.wait(store.put(&path, bytes)).map_err(admiral_samples::Error::from)?;
        }
    }
    Ok(())
}

/// Returns the plots that have a line of at least two points with different x, with the names of their files.
fn plots(rows: &[Row]) -> Vec<(&'static str, LinePlot)> {
    KINDS.iter().filter_map(|kind| Some((kind.file, plot(kind, rows)?))).collect()
}

/// Returns the plot of a kind. `None` if no line has two points with different x.
fn plot(kind: &Kind, rows: &[Row]) -> Option<LinePlot> {
    // Settings that all cells share are not named.
    let varies = |setting: &Setting| rows.iter().any(|row| setting(row) != setting(&rows[0]));
    let named: Vec<usize> = (0..SETTINGS.len()).filter(|&at| varies(&SETTINGS[at])).collect();
    let mut lines: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in rows.iter().filter(|row| (kind.point)(row).is_some()) {
        let words = named.iter().filter(|&&at| at != kind.along).map(|&at| SETTINGS[at](row));
        let name = words.collect::<Vec<_>>().join(", ");
        match lines.iter_mut().find(|(other, _)| *other == name) {
            Some((_, line)) => line.push(row),
            None => lines.push((name, vec![row])),
        }
    }
    let x = |row: &Row| (kind.point)(row).map(|(x, _)| x);
    if lines.iter().all(|(_, line)| line.iter().all(|row| x(row) == x(line[0]))) {
        return None;
    }
    let series = lines.into_iter().map(|(name, mut line)| {
        // In the order of the setting, so that a line does not go back and forth.
        line.sort_by(|a, b| order(kind, a).total_cmp(&order(kind, b)));
        let label = |row: &&Row| match kind.along {
            CHECKPOINT => String::new(),
            SCALE => row.scale.map(|scale| scale.to_string()).unwrap_or_default(),
            _ => row.timesteps.clone(),
        };
        let labels = Some(line.iter().map(label).collect());
        Series { name, points: line.into_iter().filter_map(kind.point).collect(), labels }
    });
    Some(LinePlot {
        title: kind.title.into(),
        x_label: kind.names[0].into(),
        y_label: kind.names[1].into(),
        log_x: kind.log_x,
        series: series.collect(),
    })
}

/// Returns the place of a row along its line.
fn order(kind: &Kind, row: &Row) -> f64 {
    match kind.along {
        CHECKPOINT => row.step as f64,
        SCALE => row.scale.unwrap_or(0.0),
        _ => row.evaluations as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::sample::sweep::table::test_row;

    /// The cells of two samplers and three scales, out of order.
    fn rows() -> Vec<Row> {
        let mut rows = Vec::new();
        for (sampler, shift) in [("ddim", 1.0), ("unipc", 0.0)] {
            for scale in [4.0, 1.0, 2.0] {
                let metrics =
                    [("fid", 10.0 + shift - scale), ("precision", 0.5 + 0.1 * scale), ("recall", 0.6 - 0.1 * scale)];
                rows.push(Row { sampler: sampler.into(), scale: Some(scale), ..test_row(&metrics) });
            }
        }
        rows
    }

    #[test]
    fn lines_follow_the_scale_and_are_named_by_what_differs() {
        let plots = plots(&rows());
        assert_eq!(plots.iter().map(|(file, _)| *file).collect::<Vec<_>>(), ["fid-scale", "precision-recall"]);
        let (_, fid) = &plots[0];
        assert_eq!(fid.series.iter().map(|series| series.name.as_str()).collect::<Vec<_>>(), ["ddim", "unipc"]);
        assert_eq!(fid.series[0].points, [(1.0, 10.0), (2.0, 9.0), (4.0, 7.0)]);
        assert_eq!(fid.series[1].labels, Some(["1", "2", "4"].map(String::from).to_vec()));
        let (_, precision) = &plots[1];
        assert_eq!(precision.series[1].points.len(), 3);
        assert!(precision.series[1].points.is_sorted_by(|a, b| a.0 > b.0), "{precision:?}");
    }

    #[test]
    fn numbers_of_steps_have_plots_against_evaluations_and_seconds() {
        let cell = |evaluations: usize| Row {
            timesteps: evaluations.to_string(),
            evaluations,
            guidance_evaluations: evaluations,
            images_per_second: Some(100.0 / evaluations as f64),
            ..test_row(&[("fid", 50.0 / evaluations as f64)])
        };
        let plots = plots(&[cell(50), cell(5), cell(10)]);
        assert_eq!(plots.iter().map(|(file, _)| *file).collect::<Vec<_>>(), ["fid-evaluations", "fid-seconds"]);
        let (_, fid) = &plots[0];
        assert_eq!(fid.series[0].points, [(10.0, 10.0), (20.0, 5.0), (100.0, 1.0)]);
        assert_eq!((fid.log_x, fid.series.len(), fid.series[0].name.as_str()), (true, 1, ""));
        assert_eq!(plots[1].1.series[0].points[0], (0.05, 10.0));
    }

    #[test]
    fn each_run_has_a_line_of_its_own() {
        let cell = |run: &str, step: u64, fid: f64| Row {
            checkpoint: format!("runs/{run}/checkpoints/step-{step:09}"),
            step,
            ..test_row(&[("fid", fid)])
        };
        let plots = plots(&[cell("a", 10, 9.0), cell("b", 10, 8.0), cell("b", 20, 6.0), cell("a", 20, 7.0)]);
        assert_eq!(plots.iter().map(|(file, _)| *file).collect::<Vec<_>>(), ["fid-steps"]);
        let names: Vec<&str> = plots[0].1.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["runs/a ema-0.9", "runs/b ema-0.9"]);
        assert_eq!(plots[0].1.series[1].points, [(10.0, 8.0), (20.0, 6.0)]);
        // Different runs at the same step are no line.
        assert!(self::plots(&[cell("a", 10, 9.0), cell("b", 10, 8.0)]).is_empty());
    }

    #[test]
    fn cells_without_values_have_no_plots() {
        let rows: Vec<Row> = rows().into_iter().map(|row| Row { evaluated: None, ..row }).collect();
        assert!(plots(&rows).is_empty() && plots(&[]).is_empty());
        // One cell is no line. Neither are cells with the same number of evaluations.
        assert!(plots(&self::rows()[..1]).is_empty());
        let cell = |timesteps: &str| Row { timesteps: timesteps.into(), ..test_row(&[("fid", 3.0)]) };
        assert!(plots(&[cell("25"), cell("9,6,6,2,2")]).is_empty());
    }
}
