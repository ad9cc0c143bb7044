//! The paper's measured rates.

use serde::Serialize;

/// A network of the paper's Table 7.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// Its name there.
    pub name: &'static str,
    /// Images a V100-second in theory: 120 TFLOPS, three forward passes an image.
    pub theoretical: f64,
    /// Batch of one GPU as measured, of the optimized implementation.
    pub batch: u64,
    /// Images a V100-second as measured, of the optimized implementation, with communication where the batch needs
    /// more than one machine of 8.
    pub images_per_v100_second: f64,
}

/// Table 7: throughput of the paper's ImageNet models. Table 10's days follow from its optimized rates.
pub const TABLE_7: [Row; 5] = [
    Row { name: "64x64", theoretical: 182.3, batch: 96, images_per_v100_second: 74.1 },
    Row { name: "128x128", theoretical: 65.2, batch: 32, images_per_v100_second: 24.8 },
    Row { name: "256x256", theoretical: 17.9, batch: 8, images_per_v100_second: 6.4 },
    Row { name: "64->256", theoretical: 31.7, batch: 12, images_per_v100_second: 9.5 },
    Row { name: "128->512", theoretical: 8.0, batch: 2, images_per_v100_second: 2.3 },
];

/// Beyond this ratio to a row's theoretical rate, a network is not the row's.
const SAME_NETWORK: f64 = 1.01;

/// A network of which the paper has no rate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "the paper's Table 7 has no rate of this network, of {theoretical:.1} images a V100-second in theory; it has those \
     of {}; leave --rates paper out",
    TABLE_7.map(|row| format!("{} ({})", row.name, row.theoretical)).join(", ")
)]
pub struct PaperError {
    /// Images a V100-second in theory.
    pub theoretical: f64,
}

/// The row of a network, which is known by its FLOPs: `theoretical` is its images a V100-second in theory. The paper
/// measured no LSUN model; Table 10 takes the rate of ImageNet 256x256 for them, whose network they share but for the
/// classes.
///
/// # Errors
/// Where no row is near.
pub fn row_for(theoretical: f64) -> Result<&'static Row, PaperError> {
    let ratio = |row: &&Row| (row.theoretical / theoretical).max(theoretical / row.theoretical);
    TABLE_7.iter().find(|row| ratio(row) < SAME_NETWORK).ok_or(PaperError { theoretical })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v100_days(theoretical: f64, global_batch: u64, thousand_steps: u64) -> f64 {
        let row = row_for(theoretical).unwrap_or_else(|error| panic!("{error}"));
        (thousand_steps * 1000 * global_batch) as f64 / row.images_per_v100_second / 86400.0
    }

    /// Batches and iterations of Tables 10, 11 and 13, against the generator column of Table 10.
    #[test]
    fn gives_the_generator_column_of_table_10() {
        let (base64, base128, base256) = (182.3, 65.2, 17.9);
        let (to256, to512) = (31.7, 8.0);
        for (expected, models) in [
            (116.0, &[(base256, 256, 250)][..]),
            (92.0, &[(base256, 256, 200)]),
            (521.0, &[(base128, 256, 4360)]),
            (54.0, &[(base128, 256, 450)]),
            (916.0, &[(base256, 256, 1980)]),
            (347.0, &[(base256, 256, 750)]),
            (329.0, &[(base64, 2048, 540), (to256, 256, 500)]),
            (219.0, &[(base64, 2048, 540), (to256, 256, 150)]),
            (110.0, &[(base64, 2048, 200), (to256, 256, 150)]),
            (1878.0, &[(base128, 256, 4360), (to512, 256, 1050)]),
            (189.0, &[(base128, 256, 500), (to512, 256, 100)]),
        ] {
            let days: f64 = models.iter().map(|&(rate, batch, steps)| v100_days(rate, batch, steps)).sum();
            assert!((days / expected - 1.0).abs() < 0.01, "{days} against {expected} of {models:?}");
        }
    }

    #[test]
    fn another_network_is_refused_with_those_that_there_are() {
        let message = row_for(100.0).map_err(|error| error.to_string()).err().unwrap_or_default();
        assert!(message.contains("100.0") && message.contains("64->256 (31.7)"), "{message}");
    }
}
