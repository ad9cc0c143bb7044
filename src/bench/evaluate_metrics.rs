//! How fast metrics are computed from features.

use admiral_metrics::{Features, MetricError, Statistics, frechet_distance, half, precision_recall};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::timing::Clock;

/// The neighbor whose distance is the radius of precision and recall.
const NEIGHBORS: usize = 3;

/// The seconds of each metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Metrics {
    /// The images on each side.
    pub(super) num: usize,
    /// The features of an image.
    pub(super) width: usize,
    /// FID from statistics, with the root of the covariances.
    pub(super) fid_seconds: f64,
    /// Precision and recall as the published evaluator computes them.
    pub(super) half_seconds: f64,
    /// Precision and recall in float64.
    pub(super) exact_seconds: f64,
}

/// Computes each metric of random features once.
///
/// # Errors
/// When there are too few images.
pub(super) fn metrics(num: usize, width: usize, clock: Clock) -> Result<Metrics, MetricError> {
    tch::manual_seed(0);
    let random = |rows: usize| {
        let values = Tensor::randn([rows as i64, width as i64], (Kind::Float, Device::Cpu)).abs() * 0.4;
        let mut all = vec![0.0_f32; rows * width];
        values.copy_data(&mut all, rows * width);
        all
    };
    let tables = [random(num), random(num)];
    let [generated, reference] = [Features::new(&tables[0], width)?, Features::new(&tables[1], width)?];
    let timed = |work: &dyn Fn() -> Result<(), MetricError>| -> Result<f64, MetricError> {
        let start = clock.now();
        work()?;
        Ok((clock.now() - start).as_secs_f64())
    };
    // More images than features, so that the covariances have full rank.
    let sides = [random(2 * width), random(2 * width)];
    let [left, right] = [&sides[0], &sides[1]].map(|values| Features::new(values, width));
    let (left, right) = (Statistics::of(&left?)?, Statistics::of(&right?)?);
    Ok(Metrics {
        num,
        width,
        fid_seconds: timed(&|| frechet_distance(&left, &right).map(drop))?,
        half_seconds: timed(&|| half::precision_recall(&reference, &generated, NEIGHBORS, half::BLOCK).map(drop))?,
        exact_seconds: timed(&|| precision_recall(&reference, &generated, NEIGHBORS).map(drop))?,
    })
}
