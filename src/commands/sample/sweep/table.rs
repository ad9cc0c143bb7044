//! The results of a sweep: a table in three forms, and a picture.

use std::collections::BTreeMap;

use admiral_samples::Images;
use admiral_storage::{Store, StoreOptions};
use admiral_telemetry::Grid;
use serde::{Deserialize, Serialize};

use crate::sample::Error;

use super::spec::SweepEvaluation;

/// The files that a sweep writes beside the folders of its cells.
const JSON: &str = "sweep.json";
const CSV: &str = "sweep.csv";
const PICTURE: &str = "sweep.png";

/// The pixels between two images of the picture.
const PADDING: usize = 2;

/// The version of `sweep.json`.
const SCHEMA_VERSION: u32 = 1;

/// The metrics that have a column each, with its printed name.
const METRICS: [(&str, &str); 5] =
    [("fid", "FID"), ("sfid", "sFID"), ("inception_score", "IS"), ("precision", "precision"), ("recall", "recall")];

/// The evaluation of the images of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Evaluated {
    /// What the images were evaluated with.
    pub(super) settings: SweepEvaluation,
    /// What the metrics depend on besides the settings: the digest of the network and of the reference.
    pub(super) fingerprint: String,
    /// The metrics by name. One without a value is left out.
    pub(super) metrics: BTreeMap<String, f64>,
    /// The report: what was compared with what, with fingerprints, and warnings.
    pub(super) report: serde_json::Value,
}

/// The result of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    /// The name, which is also that of its folder.
    pub(super) name: String,
    /// The location of the checkpoint.
    pub(super) checkpoint: String,
    /// The training step of the checkpoint.
    pub(super) step: u64,
    /// Its weights.
    pub(super) weights: String,
    /// The sampler.
    pub(super) sampler: String,
    /// The timesteps or the number of steps.
    pub(super) timesteps: String,
    /// The strength of the guidance, if there is any.
    pub(super) scale: Option<f64>,
    /// The number of images.
    pub(super) num: u64,
    /// The evaluations of the network for one image.
    pub(super) evaluations: usize,
    /// The evaluations of what guides it.
    pub(super) guidance_evaluations: usize,
    /// The speed on all ranks with which images were drawn and written. `None` if another program drew all of them.
    pub(super) images_per_second: Option<f64>,
    /// The location of the job.
    pub(super) location: String,
    /// The evaluation, if the sweep asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) evaluated: Option<Evaluated>,
}

/// The content of `sweep.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    schema_version: u32,
    rows: Vec<Row>,
}

impl Row {
    /// Returns whether another row is of the same cell with the same settings.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let settings = |row: &Self| Self { images_per_second: None, evaluated: None, ..row.clone() };
        settings(self) == settings(other)
    }

    /// Returns the value of a metric. `None` if the cell has not been evaluated, or its evaluation lacks the metric.
    pub(super) fn metric(&self, name: &str) -> Option<f64> {
        self.evaluated.as_ref()?.metrics.get(name).copied()
    }

    /// Returns the evaluations of all networks for one image.
    fn all_evaluations(&self) -> usize {
        self.evaluations + self.guidance_evaluations
    }

    /// The columns, with their names.
    fn columns(&self) -> Vec<(&'static str, String)> {
        let number = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
        let mut columns = vec![
            ("name", self.name.clone()),
            ("checkpoint", self.checkpoint.clone()),
            ("step", self.step.to_string()),
            ("weights", self.weights.clone()),
            ("sampler", self.sampler.clone()),
            ("timesteps", self.timesteps.clone()),
            ("scale", number(self.scale)),
            ("num", self.num.to_string()),
            ("evaluations", self.evaluations.to_string()),
            ("guidance_evaluations", self.guidance_evaluations.to_string()),
            ("images_per_second", number(self.images_per_second)),
            ("location", self.location.clone()),
        ];
        columns.extend(METRICS.map(|(name, _)| (name, number(self.metric(name)))));
        columns
    }

    /// Prints the row. `width` is that of the longest name.
    pub(super) fn print(&self, width: usize) {
        let evaluations = self.all_evaluations();
        let speed = self.images_per_second.map_or_else(|| "-".into(), |speed| format!("{speed:.2}"));
        let value = |(name, _)| self.metric(name).map_or_else(|| "-".into(), |value| format!("{value:.3}"));
        let metrics = self.evaluated.as_ref().map(|_| METRICS.map(|metric| format!("{:>9}  ", value(metric))).concat());
        let metrics = metrics.unwrap_or_default();
        println!("{:width$}  {evaluations:>11}  {speed:>10}  {metrics}{}", self.name, self.location);
    }
}

/// Prints the names of the printed columns, with those of the metrics if cells are evaluated.
pub(super) fn print_header(width: usize, is_evaluated: bool) {
    let metrics = is_evaluated.then(|| METRICS.map(|(_, printed)| format!("{printed:>9}  ")).concat());
    let metrics = metrics.unwrap_or_default();
    println!("{:width$}  {:>11}  {:>10}  {metrics}location", "cell", "evaluations", "images/s");
}

/// Prints the cells whose FID no other cell reaches with as few evaluations, if cells can be compared.
pub(super) fn print_fewest_evaluations(rows: &[Row]) {
    let fewest = fewest_evaluations(rows);
    if fewest.is_empty() {
        return;
    }
    println!("cells whose FID no other cell reaches with as few evaluations of networks:");
    for (row, fid) in fewest {
        println!("  {:>5}  FID {fid:.3}  {}", row.all_evaluations(), row.name);
    }
}

/// Returns the cells, and their FIDs, whose FID no other cell reaches with as few evaluations of networks or fewer: first the
/// one with the fewest evaluations. Of equal cells, one is returned. Empty if fewer than two cells have an FID.
fn fewest_evaluations(rows: &[Row]) -> Vec<(&Row, f64)> {
    let mut known: Vec<(&Row, f64)> = rows.iter().filter_map(|row| Some((row, row.metric("fid")?))).collect();
    if known.len() < 2 {
        return Vec::new();
    }
    known.sort_by(|(one, fid), (other, other_fid)| {
        one.all_evaluations().cmp(&other.all_evaluations()).then(fid.total_cmp(other_fid))
    });
    let mut best = f64::INFINITY;
    known.retain(|&(_, fid)| {
        let is_better = fid < best;
        best = best.min(fid);
        is_better
    });
    known
}

/// Reads the rows of a sweep that was here before. Without one there are none.
///
/// # Errors
/// When the file is not that of a sweep, or is from a newer version.
pub(super) fn read(store: &Store) -> Result<Vec<Row>, Error> {
    let found = store.wait(store.get(JSON)).map_err(admiral_samples::Error::from)?;
    let Some(bytes) = found else { return Ok(Vec::new()) };
    match serde_json::from_slice::<Table>(&bytes) {
        Ok(table) if table.schema_version == SCHEMA_VERSION => Ok(table.rows),
        Ok(table) => Err(Error::Refused(format!(
            "{} has schema version {}, and this Admiral reads {SCHEMA_VERSION}; give the sweep a new location",
            store.url(JSON),
            table.schema_version
        ))),
        Err(error) => Err(Error::Refused(format!(
            "{} is not the table of a sweep ({error}); give the sweep a new location",
            store.url(JSON)
        ))),
    }
}

/// Writes the table as JSON and as CSV.
///
/// # Errors
/// When the store refuses or does not answer.
pub(super) fn write(store: &Store, rows: Vec<Row>) -> Result<(), Error> {
    let csv = csv(&rows);
    let json = serde_json::to_vec_pretty(&Table { schema_version: SCHEMA_VERSION, rows })
        .map_err(|error| Error::Bug(error.to_string()))?;
    for (path, bytes) in [(CSV, csv.into_bytes()), (JSON, json)] {
        store.wait(store.put(path, bytes)).map_err(admiral_samples::Error::from)?;
    }
    Ok(())
}

fn csv(rows: &[Row]) -> String {
    let line = |words: Vec<String>| words.join(",") + "\n";
    let header =
        rows.iter().take(1).map(|row| line(row.columns().into_iter().map(|(name, _)| name.to_owned()).collect()));
    let values = rows.iter().map(|row| line(row.columns().into_iter().map(|(_, value)| quoted(value)).collect()));
    header.chain(values).collect()
}

/// Returns a value of a CSV file (RFC 4180).
fn quoted(value: String) -> String {
    if value.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", value.replace('"', "\"\"")) } else { value }
}

/// Writes the picture: a row for each cell with its first `columns` images.
///
/// # Errors
/// When an image cannot be read, or the picture cannot be written.
pub(super) fn write_picture(store: &Store, rows: &[Row], columns: u64, stores: &StoreOptions) -> Result<(), Error> {
    let (mut pixels, mut shape) = (Vec::new(), [0; 3]);
    for row in rows {
        let mut images = Images::open(&row.location, stores)?;
        shape = images.shape();
        pixels.extend(images.read(0..columns.min(images.num()))?);
    }
    let bug = |error: admiral_telemetry::GridError| Error::Bug(error.to_string());
    let columns = columns.min(rows.first().map_or(1, |row| row.num));
    let png = Grid::of(&pixels, shape, columns as usize, PADDING).and_then(|grid| grid.png()).map_err(bug)?;
    store.wait(store.put(PICTURE, png)).map_err(admiral_samples::Error::from)?;
    Ok(())
}

/// A row with these metrics.
#[cfg(test)]
pub(super) fn test_row(metrics: &[(&str, f64)]) -> Row {
    let evaluated = Evaluated {
        fingerprint: String::new(),
        settings: SweepEvaluation { reference: "reference.npz".into(), ..SweepEvaluation::default() },
        metrics: metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        report: serde_json::json!({"warnings": []}),
    };
    Row {
        name: "ddim-90_10".into(),
        checkpoint: "a \"b\"".into(),
        step: 3,
        weights: "ema-0.9".into(),
        sampler: "ddim".into(),
        timesteps: "90,10".into(),
        scale: None,
        num: 4,
        evaluations: 100,
        guidance_evaluations: 0,
        images_per_second: Some(1.5),
        location: "out/ddim-90_10".into(),
        evaluated: Some(evaluated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row { evaluated: None, ..test_row(&[]) }
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let text = csv(&[row()]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("name,checkpoint,step,weights,sampler,timesteps,scale,"), "{text}");
        assert!(lines[0].ends_with(",location,fid,sfid,inception_score,precision,recall"), "{text}");
        let expected = "ddim-90_10,\"a \"\"b\"\"\",3,ema-0.9,ddim,\"90,10\",,4,100,0,1.5,out/ddim-90_10";
        assert_eq!(lines[1..], [format!("{expected},,,,,")]);
        let evaluated = csv(&[test_row(&[("fid", 2.97), ("recall", 0.5), ("kid", 1.0)])]);
        assert_eq!(evaluated.lines().last(), Some(format!("{expected},2.97,,,,0.5").as_str()));
    }

    #[test]
    fn a_table_without_evaluations_is_still_read() {
        let old = serde_json::to_value(row()).unwrap_or_default();
        assert!(old.get("evaluated").is_none(), "{old}");
        let read: Result<Row, _> = serde_json::from_value(old);
        assert_eq!(read.ok(), Some(row()));
        let evaluated = test_row(&[("fid", 2.97)]);
        let read: Result<Row, _> = serde_json::from_value(serde_json::to_value(&evaluated).unwrap_or_default());
        assert_eq!(read.ok(), Some(evaluated));
    }

    #[test]
    fn no_other_cell_has_a_better_fid_for_as_few_evaluations() {
        let cell = |name: &str, evaluations, guidance_evaluations, fid: f64| Row {
            name: name.into(),
            evaluations,
            guidance_evaluations,
            ..test_row(&[("fid", fid)])
        };
        let rows = [
            cell("slow", 25, 25, 9.0),
            cell("guided", 10, 10, 8.0),
            cell("best", 30, 0, 7.0),
            cell("equal", 50, 0, 7.0),
            cell("few", 10, 0, 9.5),
            cell("few and bad", 10, 0, 20.0),
            Row { evaluations: 1, ..row() },
        ];
        let names: Vec<&str> = fewest_evaluations(&rows).iter().map(|(row, _)| row.name.as_str()).collect();
        assert_eq!(names, ["few", "guided", "best"]);
        assert!(fewest_evaluations(&rows[..1]).is_empty());
    }

    #[test]
    fn only_the_speed_and_the_evaluation_of_a_cell_may_change() {
        assert!(row().is_same(&test_row(&[("fid", 2.97)])));
        assert!(row().is_same(&Row { images_per_second: None, ..row() }));
        assert!(!row().is_same(&Row { num: 5, ..row() }));
    }
}
