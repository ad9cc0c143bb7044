//! The evaluation metrics of the paper, and later ones, computed from features and logits of images.
//!
//! | metric | function | input |
//! |---|---|---|
//! | FID, sFID | [`frechet_distance`] of [`Statistics`], from [`Sums`] that merge | pool features, spatial features |
//! | FID of infinitely many images, interval | [`BlockSums::extrapolate`] | pool features |
//! | inception score | [`inception_score_of_logits`], [`inception_score_of_pieces`] | logits |
//! | KID | [`kernel_inception_distance`], [`kernel_distance_of_subsets`] | pool features |
//! | improved precision and recall | [`precision_recall`] | pool features |
//! | density and coverage | [`density_coverage`] | pool features |
//! | nearest neighbors, copies | [`nearest_k`], [`copy_audit`] | pool features |
//!
//! All of these are in float64, or as exact as if they were. [`adm`] and [`half`] have the numerics of the published
//! evaluator. Work is done in blocks on all cores of the current thread pool: beside the features, no function needs
//! more memory than a few blocks and a few matrices of width^2. Results do not depend on the number of threads.

pub mod adm;
mod bounds;
mod distances;
mod error;
mod extrapolation;
mod features;
mod frechet;
pub mod half;
mod half_blocks;
mod inception_score;
mod kernel_distance;
mod manifold;
mod neighbors;
mod products;
mod rounding;
mod spread;
mod subsets;
mod sums;
mod tiles;

pub use distances::Neighbor;
pub use error::MetricError;
pub use extrapolation::{BLOCKS, BlockSums, Extrapolation, NUM_DISTANCES, extrapolation_operations};
pub use features::Features;
pub use frechet::{Statistics, frechet_distance};
pub use inception_score::{SPLIT, inception_score, inception_score_of_logits, inception_score_of_pieces, random_order};
pub use kernel_distance::{
    SUBSET_SIZE, SUBSETS, kernel_distance_of_given_subsets, kernel_distance_of_subsets, kernel_inception_distance,
};
pub use manifold::{DensityCoverage, PrecisionRecall, density_coverage, precision_recall, radii};
pub use neighbors::{CopyAudit, copy_audit, nearest, nearest_k};
pub use spread::MeanSpread;
pub use sums::Sums;

#[cfg(test)]
mod tests {
    use admiral_random::{Philox, Stream};

    /// Returns features of the scale of pool features: not negative, correlated, of different variances.
    pub fn pool_like(num: usize, width: usize, seed: u64) -> Vec<f32> {
        let mut random = Philox::new(seed, Stream::Noise, 0);
        let mut values = vec![0.0; num * width];
        random.fill_normal(&mut values);
        for row in values.chunks_exact_mut(width) {
            let shared = row[0];
            for (column, value) in row.iter_mut().enumerate() {
                let scale = 0.01 + column as f32 / width as f32;
                *value = (scale * (0.5 + *value + 0.3 * shared)).max(0.0);
            }
        }
        values
    }
}
