//! The rates that the paper measured.

use serde::Serialize;

/// A row of the paper's Table 7: one network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PaperRow {
    /// The name of the network in the table.
    pub name: &'static str,
    /// The theoretical images per V100-second: 120 TFLOPS, three forward passes per image.
    pub theoretical: f64,
    /// The batch of one GPU in the measurement of the optimized implementation.
    pub batch: u64,
    /// The measured images per V100-second of the optimized implementation. They include communication if the batch
    /// needs more than one machine of 8 GPUs.
    pub images_per_v100_second: f64,
}

/// Table 7: the throughput of the paper's ImageNet models. The days in Table 10 follow from its optimized rates.
pub const TABLE_7: [PaperRow; 5] = [
    PaperRow { name: "64x64", theoretical: 182.3, batch: 96, images_per_v100_second: 74.1 },
    PaperRow { name: "128x128", theoretical: 65.2, batch: 32, images_per_v100_second: 24.8 },
    PaperRow { name: "256x256", theoretical: 17.9, batch: 8, images_per_v100_second: 6.4 },
    PaperRow { name: "64->256", theoretical: 31.7, batch: 12, images_per_v100_second: 9.5 },
    PaperRow { name: "128->512", theoretical: 8.0, batch: 2, images_per_v100_second: 2.3 },
];

/// The largest ratio between the theoretical rates of a network and a row at which both are the same network.
const SAME_NETWORK: f64 = 1.01;

/// The error for a network that the paper has no rate of.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "the paper's Table 7 has no rate of this network, of {theoretical:.1} images a V100-second in theory; it has those \
     of {}; leave --rates paper out",
    TABLE_7.map(|row| format!("{} ({})", row.name, row.theoretical)).join(", ")
)]
pub struct PaperError {
    /// The theoretical images per V100-second.
    pub theoretical: f64,
}

/// Returns the row of a network, which is identified by `theoretical`, its theoretical images per V100-second.
///
/// The paper measured no LSUN models. Table 10 uses the rate of ImageNet 256x256 for them, because they have the same
/// network except for the classes.
///
/// # Errors
/// If no row has this theoretical rate.
pub fn row_for(theoretical: f64) -> Result<&'static PaperRow, PaperError> {
    let ratio = |row: &&PaperRow| (row.theoretical / theoretical).max(theoretical / row.theoretical);
    TABLE_7.iter().find(|row| ratio(row) < SAME_NETWORK).ok_or(PaperError { theoretical })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v100_days(theoretical: f64, global_batch: u64, thousand_steps: u64) -> f64 {
        let row = row_for(theoretical).unwrap_or_else(|error| panic!("{error}"));
        (thousand_steps * 1000 * global_batch) as f64 / row.images_per_v100_second / 86400.0
    }

    /// The batches and iterations of Tables 10, 11 and 13 give the generator column of Table 10.
    #[test]
    fn rates_give_the_generator_column_of_table_10() {
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
            assert!((days / expected - 1.0).abs() < 0.01, "{days}, but the table has {expected} for {models:?}");
        }
    }

    #[test]
    fn an_unknown_network_is_refused_with_a_list_of_known_ones() {
        let message = row_for(100.0).map_err(|error| error.to_string()).err().unwrap_or_default();
        assert!(message.contains("100.0") && message.contains("64->256 (31.7)"), "{message}");
    }
}
