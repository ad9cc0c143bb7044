//! The result of a comparison: what was compared with what, the metrics in both modes, and warnings.

use std::fmt::Write as _;

use admiral_statistics::ExtractorIdentity;
use serde::{Deserialize, Serialize};

/// The version of the report.
pub const REPORT_VERSION: u32 = 1;

/// The number of images below which FID is known to mislead.
const FEW_IMAGES: u64 = 10_000;

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

/// Returns what is known to mislead about a comparison of `samples` with `reference`.
#[must_use]
pub fn warnings(samples: &SideReport, reference: &SideReport) -> Vec<String> {
    let mut warnings = Vec::new();
    for (side, name) in [(samples, "the samples are"), (reference, "the reference has")] {
        if let Some(num) = side.num.filter(|num| *num < FEW_IMAGES) {
            warnings.push(format!(
                "{name} only {num} images: FID is too high below {FEW_IMAGES}, and only comparable at equal numbers"
            ));
        }
    }
    if reference.statistics.is_none() && reference.num == Some(FEW_IMAGES) {
        warnings.push(format!(
            "the reference is {FEW_IMAGES} pictures without statistics; published values use the statistics of the whole \
             training set, which the published npz files hold as mu and sigma"
        ));
    }
    if let (Some(left), Some(right)) = (samples.shape, reference.shape)
        && left != right
    {
        warnings.push(format!(
            "the samples have {}x{}x{} (height, width, channels) and the reference {}x{}x{}: a resize shows in FID",
            left[0], left[1], left[2], right[0], right[1], right[2]
        ));
    }
    if samples.pixels.is_some() && samples.pixels == reference.pixels {
        warnings.push("the reference is evaluated against itself: the same pixels are on both sides".into());
    }
    if samples.num.is_some() && reference.pixels.is_some() && samples.num != reference.num {
        warnings.push(
            "precision, recall, density and coverage compare sets of different sizes: they depend on the numbers"
                .into(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(num: u64, pixels: &str) -> SideReport {
        SideReport {
            location: "x".into(),
            num: Some(num),
            shape: Some([8, 8, 3]),
            pixels: Some(pixels.into()),
            statistics: None,
        }
    }

    #[test]
    fn what_misleads_is_warned_about() {
        assert_eq!(warnings(&side(50_000, "a"), &side(50_000, "b")), Vec::<String>::new());
        let found = warnings(&side(500, "a"), &side(10_000, "b"));
        assert!(found[0].contains("only 500 images") && found[1].contains("without statistics"), "{found:?}");
        assert!(found[2].contains("different sizes"), "{found:?}");
        assert!(warnings(&side(50_000, "a"), &side(50_000, "a"))[0].contains("against itself"));
        let mut large = side(50_000, "b");
        large.shape = Some([16, 16, 3]);
        assert!(warnings(&side(50_000, "a"), &large)[0].contains("8x8x3"));
    }

    #[test]
    fn numbers_have_six_digits() {
        assert_eq!(
            [0.0, 2.97, 123.456_789, 0.001_234_567, 1e-7].map(shown),
            ["0.00000", "2.97000", "123.457", "0.00123457", "1.00000e-7"]
        );
    }
}
