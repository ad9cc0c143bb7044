//! The result of a comparison: what was compared with what, the metrics in both modes, and warnings.

use std::fmt::Write as _;

use admiral_statistics::ExtractorIdentity;
use serde::{Deserialize, Serialize};

/// The version of the report.
pub const REPORT_VERSION: u32 = 1;

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SideReport {
    /// The location.
    pub location: String,
    /// The number of images, or of those that given statistics were computed from, if it is known.
    pub num: Option<u64>,
    /// Height, width and channels of the images.
    pub shape: Option<[usize; 3]>,
    /// The digest of the images' pixels. The same images in another file have the same.
    pub pixels: Option<String>,
    /// The SHA-256 of given statistics.
    pub statistics: Option<String>,
}

/// A metric in both modes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricRow {
    /// The name, such as `fid`.
    pub name: String,
    /// The value with the published evaluator's numerics.
    pub adm: Option<f64>,
    /// The value in float64.
    pub exact: Option<f64>,
    /// How it is computed.
    pub how: String,
}

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of the report.
    pub schema_version: u32,
    /// The version of Admiral.
    pub admiral: String,
    /// The version of the libtorch in the program that made the report, if the caller has set it. Features that were kept may
    /// be from another one.
    pub libtorch: Option<String>,
    /// The images that are evaluated.
    pub samples: SideReport,
    /// The images that they are compared with.
    pub reference: SideReport,
    /// The network of the features.
    pub features: ExtractorIdentity,
    /// The numerics that were asked for: `adm`, `exact` or both.
    pub modes: Vec<String>,
    /// How the mode `adm` rounds distances.
    pub rounding: String,
    /// The metrics.
    pub metrics: Vec<MetricRow>,
    /// What is known to mislead.
    pub warnings: Vec<String>,
}

impl Report {
    /// Returns the value of a metric: exact if it was computed, else as the published evaluator computes it.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|row| row.name == name).and_then(|row| row.exact.or(row.adm))
    }

    /// Returns a table for people. The last column is the relative difference of the modes.
    #[must_use]
    pub fn table(&self) -> String {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), shown);
        let mut text = String::new();
        let side = |side: &SideReport| {
            let num = side.num.map_or_else(|| "an unknown number of".to_owned(), |num| num.to_string());
            let shape = side.shape.map_or(String::new(), |[h, w, c]| format!(" of {h} x {w} x {c}"));
            let of = match (&side.statistics, &side.pixels) {
                (Some(digest), _) => format!(", statistics {digest:.12}"),
                (None, Some(digest)) => format!(", pixels {digest:.12}"),
                (None, None) => String::new(),
            };
            format!("{} ({num} images{shape}{of})", side.location)
        };
        let _ = writeln!(text, "samples    {}", side(&self.samples));
        let _ = writeln!(text, "reference  {}", side(&self.reference));
        let _ = writeln!(text, "features   {}, resize {}", self.features.shown(), self.features.resize);
        let libtorch = self.libtorch.as_ref().map_or_else(String::new, |version| format!(", libtorch {version}"));
        let _ = writeln!(text, "program    Admiral {}{libtorch}", self.admiral);
        let width = self.metrics.iter().map(|row| row.name.len()).max().unwrap_or(0).max("metric".len());
        let _ = writeln!(text, "{:width$}  {:>12}  {:>12}  {:>10}  computed", "metric", "adm", "exact", "difference");
        for row in &self.metrics {
            let difference = match (row.adm, row.exact) {
                (Some(adm), Some(exact)) if exact != 0.0 => format!("{:.1e}", (adm - exact) / exact.abs()),
                _ => "-".into(),
            };
            let (adm, exact) = (number(row.adm), number(row.exact));
            let _ = writeln!(text, "{:width$}  {adm:>12}  {exact:>12}  {difference:>10}  {}", row.name, row.how);
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        text
    }
}

/// Returns a number with six digits.
fn shown(value: f64) -> String {
    let digits = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    if (-4..=6).contains(&digits) {
        format!("{value:.*}", (5 - digits).max(0) as usize)
    } else {
        format!("{value:.5e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_six_digits() {
        assert_eq!(
            [0.0, 2.97, 123.456_789, 0.001_234_567, 1e-7].map(shown),
            ["0.00000", "2.97000", "123.457", "0.00123457", "1.00000e-7"]
        );
    }
}
