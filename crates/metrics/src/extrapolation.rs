//! The FID of infinitely many images, and an interval for the FID.
//!
//! The FID of n images is too large by about c / n for some c (Chong and Forsyth, "Effectively unbiased FID and
//! inception score and where to find them", 2020). Its values at several n, fitted by a line in 1 / n, give the value
//! at 1 / n = 0.
//!
//! The images are divided into [`BLOCKS`] blocks at random. A set of blocks needs only the merged [`Sums`] of its
//! blocks, so that all statistics together need one pass over the images.

use rayon::prelude::*;

use super::subsets::{Purpose, draw};
use super::{Features, MetricError, Statistics, Sums, frechet_distance};

/// The number of blocks.
pub const BLOCKS: usize = 20;
/// How many sets of equal size the blocks are divided into for each point of the line.
const SETS: [usize; 4] = [5, 4, 2, 1];
/// The 97.5 % quantile of Student's t distribution with [`BLOCKS`] - 1 = 19 degrees of freedom.
const QUANTILE: f64 = 2.093_024;
/// The number of distances that are computed at the same time. Each needs five matrices of width^2.
const AT_A_TIME: usize = 4;

/// The FID of n images, that of infinitely many, and an interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Extrapolation {
    /// The FID of all images.
    pub fid: f64,
    /// The FID of infinitely many images: the value of the line at 1 / n = 0. If the images and the line are poor, it
    /// can be negative.
    pub at_infinity: f64,
    /// The slope of the line in 1 / n.
    pub slope: f64,
    /// The points that the line was fitted to: mean numbers of images, and mean distances of sets of that size.
    pub points: Vec<(f64, f64)>,
    /// The root of the mean square of the distances of the points from the line.
    pub residual: f64,
    /// The standard error of the FID of n images.
    pub standard_error: f64,
    /// The ends of the interval that contains the expected FID of n generated images with a confidence of 95 %. The
    /// reference is taken as it is.
    pub interval: [f64; 2],
}

/// The sums of the blocks of a set of images.
#[derive(Debug, Clone)]
pub struct BlockSums {
    blocks: Vec<Sums>,
}

impl BlockSums {
    /// Divides images into [`BLOCKS`] blocks at random, as a function of `seed`, and returns their sums. This needs
    /// `num width^2` operations, and memory of `BLOCKS width^2 / 2` float64 numbers.
    ///
    /// # Errors
    /// [`MetricError::TooFew`] if there are fewer than two images for each block.
    pub fn new(features: &Features<'_>, seed: u64) -> Result<Self, MetricError> {
        features.check_num(2 * BLOCKS, "the division into blocks")?;
        let num = features.num();
        let order = draw(seed, Purpose::Blocks, 0, num, num);
        let blocks = (0..BLOCKS).map(|block| {
            let rows = &order[block * num / BLOCKS..(block + 1) * num / BLOCKS];
            let mut sums = Sums::new(features.width());
            sums.add_rows(features, rows.len(), |index| rows[index])?;
            Ok(sums)
        });
        Ok(Self { blocks: blocks.collect::<Result<_, MetricError>>()? })
    }

    /// Returns the sums of all images.
    #[must_use]
    pub fn total(&self) -> Sums {
        self.merged(0..BLOCKS)
    }

    fn merged(&self, blocks: std::ops::Range<usize>) -> Sums {
        let (first, rest) = (&self.blocks[blocks.start], &self.blocks[blocks.start + 1..blocks.end]);
        let mut sums = first.clone();
        rest.iter().for_each(|block| sums.add_sums(block));
        sums
    }

    /// Returns the FID of all images, that of infinitely many, and an interval by the jackknife.
    ///
    /// The line is fitted by least squares to the mean distances of five sets of a fifth of the images each, of four
    /// sets of a quarter, of two halves, and of all images. Each point so uses every image once, and shares the
    /// accidents of the others. Where a set has fewer images than features, the FID is not linear in 1 / n, and the
    /// result is not to be trusted.
    ///
    /// The standard error s is that of the delete-a-block jackknife (Efron, "The jackknife, the bootstrap and other
    /// resampling plans", 1982): `s^2 = (B - 1) / B * sum over blocks of (FID without the block - their mean)^2`. The
    /// interval is `FID +- t s` with Student's t for B - 1 degrees of freedom. A bootstrap would draw images more than
    /// once, and the FID of such sets is biased.
    ///
    /// This computes [`NUM_DISTANCES`] Frechet distances, and so takes about that many times the time of one, divided
    /// by the number of cores up to 4.
    ///
    /// # Errors
    /// As for [`frechet_distance`].
    pub fn extrapolate(&self, reference: &Statistics) -> Result<Extrapolation, MetricError> {
        let total = self.total();
        // Without one block each, then the sets of each size.
        let mut tasks: Vec<Task> = (0..BLOCKS).map(Task::Without).collect();
        for sets in SETS {
            tasks.extend((0..sets).map(|set| Task::Of(set * BLOCKS / sets..(set + 1) * BLOCKS / sets)));
        }
        let distance = |task: &Task| {
            let sums = match task {
                Task::Without(block) => {
                    let mut sums = total.clone();
                    sums.remove(&self.blocks[*block]);
                    sums
                }
                Task::Of(blocks) => self.merged(blocks.clone()),
            };
            frechet_distance(&sums.statistics()?, reference)
        };
        let mut distances = Vec::with_capacity(NUM_DISTANCES);
        for tasks in tasks.chunks(AT_A_TIME) {
            distances.extend(tasks.par_iter().map(distance).collect::<Result<Vec<f64>, MetricError>>()?);
        }
        let (without, mut of_sets) = distances.split_at(BLOCKS);
        let mut points = Vec::with_capacity(SETS.len());
        for sets in SETS {
            let (own, rest) = of_sets.split_at(sets);
            points.push((total.num() as f64 / sets as f64, own.iter().sum::<f64>() / sets as f64));
            of_sets = rest;
        }
        let (_, fid) = points[SETS.len() - 1];
        let line = Line::fit(&points);
        let mean = without.iter().sum::<f64>() / BLOCKS as f64;
        let squares: f64 = without.iter().map(|distance| (distance - mean).powi(2)).sum();
        let standard_error = (squares * (BLOCKS - 1) as f64 / BLOCKS as f64).sqrt();
        let half_width = QUANTILE * standard_error;
        Ok(Extrapolation {
            fid,
            at_infinity: line.intercept,
            slope: line.slope,
            residual: line.residual,
            points,
            standard_error,
            interval: [fid - half_width, fid + half_width],
        })
    }
}

/// The blocks that a distance is computed from.
enum Task {
    /// All but one.
    Without(usize),
    /// Consecutive ones.
    Of(std::ops::Range<usize>),
}

/// The number of Frechet distances that [`BlockSums::extrapolate`] computes.
pub const NUM_DISTANCES: usize = BLOCKS + 5 + 4 + 2 + 1;

/// Returns about how many floating-point operations [`BlockSums::new`] and [`BlockSums::extrapolate`] need together.
#[must_use]
pub fn extrapolation_operations(num: usize, width: usize) -> f64 {
    let (num, width) = (num as f64, width as f64);
    num * width * width + NUM_DISTANCES as f64 * 6.0 * width.powi(3)
}

/// A line in 1 / n.
struct Line {
    intercept: f64,
    slope: f64,
    residual: f64,
}

impl Line {
    /// Fits a line by least squares to (n, value).
    fn fit(points: &[(f64, f64)]) -> Self {
        let num = points.len() as f64;
        let inverse = |n: f64| 1.0 / n;
        let mean_x = points.iter().map(|&(n, _)| inverse(n)).sum::<f64>() / num;
        let mean_y = points.iter().map(|&(_, y)| y).sum::<f64>() / num;
        let xx: f64 = points.iter().map(|&(n, _)| (inverse(n) - mean_x).powi(2)).sum();
        let xy: f64 = points.iter().map(|&(n, y)| (inverse(n) - mean_x) * (y - mean_y)).sum();
        let slope = xy / xx;
        let intercept = mean_y - slope * mean_x;
        let squares: f64 = points.iter().map(|&(n, y)| (y - intercept - slope * inverse(n)).powi(2)).sum();
        Self { intercept, slope, residual: (squares / num).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tests::pool_like;

    #[test]
    fn a_line_in_1_over_n_is_found() {
        let points = [10.0, 20.0, 40.0].map(|n| (n, 3.0 + 5.0 / n));
        let line = Line::fit(&points);
        assert!((line.intercept - 3.0).abs() < 1e-12 && (line.slope - 5.0).abs() < 1e-10 && line.residual < 1e-12);
    }

    #[test]
    fn the_distance_of_infinitely_many_images_of_the_same_distribution_is_near_0() {
        let width = 24;
        let (values, other) = (pool_like(4000, width, 5), pool_like(200_000, width, 6));
        let generated = Features::new(&values, width).unwrap();
        let reference = Statistics::of(&Features::new(&other, width).unwrap()).unwrap();
        let sums = BlockSums::new(&generated, 1).unwrap();
        assert_eq!(sums.total().num(), 4000);
        let found = sums.extrapolate(&reference).unwrap();
        let fid = frechet_distance(&Statistics::of(&generated).unwrap(), &reference).unwrap();
        assert!((found.fid / fid - 1.0).abs() < 1e-9);
        assert!(found.at_infinity.abs() < 3.0 * found.standard_error && found.at_infinity < 0.3 * fid, "{found:?}");
        assert!(found.residual < 0.05 * fid, "{found:?}");
        assert_eq!(found.points.iter().map(|point| point.0).collect::<Vec<_>>(), [800.0, 1000.0, 2000.0, 4000.0]);
        assert_eq!(NUM_DISTANCES, BLOCKS + SETS.iter().sum::<usize>());
    }

    #[test]
    fn the_standard_error_is_the_spread_over_repeated_sets() {
        let width = 6;
        let other = pool_like(50_000, width, 99);
        let mut shifted = other;
        shifted.iter_mut().for_each(|value| *value += 0.3);
        let reference = Statistics::of(&Features::new(&shifted, width).unwrap()).unwrap();
        let (mut fids, mut errors, mut hits) = (Vec::new(), Vec::new(), 0);
        let repetitions = 60;
        for seed in 0..repetitions {
            let values = pool_like(1000, width, 100 + seed);
            let sums = BlockSums::new(&Features::new(&values, width).unwrap(), seed).unwrap();
            let found = sums.extrapolate(&reference).unwrap();
            fids.push(found.fid);
            errors.push(found.standard_error);
        }
        let mean = fids.iter().sum::<f64>() / repetitions as f64;
        let spread = (fids.iter().map(|fid| (fid - mean).powi(2)).sum::<f64>() / (repetitions - 1) as f64).sqrt();
        let error = errors.iter().sum::<f64>() / repetitions as f64;
        assert!((0.7..1.4).contains(&(error / spread)), "{error} {spread}");
        for (fid, error) in fids.iter().zip(&errors) {
            hits += usize::from((fid - mean).abs() <= QUANTILE * error);
        }
        assert!(hits * 100 >= 85 * repetitions as usize, "{hits}");
    }

    #[test]
    fn too_few_images_are_an_error() {
        let table = Features::new(&[0.0; 2 * BLOCKS - 1], 1).unwrap();
        assert!(matches!(BlockSums::new(&table, 0), Err(MetricError::TooFew { needed: 40, given: 39, .. })));
    }
}
