//! Computes the metrics of two sides of a comparison from their features.

use admiral_metrics::adm::{self, AdmStatistics};
use admiral_metrics::{
    BLOCKS, BlockSums, Features, MetricError, SUBSET_SIZE, SUBSETS, Statistics, density_coverage, frechet_distance,
    half, inception_score_of_logits, inception_score_of_pieces, kernel_distance_of_subsets, kernel_inception_distance,
    precision_recall, random_order,
};
use admiral_statistics::{ExtractorIdentity, GivenStatistics};

use crate::error::Error;
use crate::images::{Classes, ImageSet};
use crate::parts::FeatureTables;
use crate::report::{MetricRow, REPORT_VERSION, Report, SideReport};
use crate::side::OpenedSide;
use crate::warnings::{WarnedSide, warnings};

/// One side of a comparison, with its features.
#[derive(Debug)]
pub struct Side {
    /// The location, for reports.
    pub location: String,
    /// Height, width and channels of the images, if there are any.
    pub shape: Option<[usize; 3]>,
    /// The number of all images, of which `tables` may have fewer; `None` if there are none.
    pub num: Option<u64>,
    /// The classes of the images.
    pub classes: Classes,
    /// The features of the images, if there are any.
    pub tables: Option<FeatureTables>,
    /// Statistics that a file gives. FID and sFID take them in place of those of the images.
    pub statistics: Option<GivenStatistics>,
    /// What comparisons with the same options need, if it was computed before.
    moments: Option<Box<SideMoments>>,
}

impl Side {
    /// Returns an opened side with the features of its images.
    #[must_use]
    pub fn new(opened: OpenedSide, tables: Option<FeatureTables>) -> Self {
        let OpenedSide { location, images, statistics } = opened;
        let (shape, num) = images.as_ref().map(|images| (images.shape(), images.num())).unzip();
        let classes = images.as_ref().map_or(Classes::Unknown, ImageSet::classes);
        Self { location, shape, num, classes, tables, statistics, moments: None }
    }

    /// Returns a side of images of a shape that were just drawn, with their features.
    #[must_use]
    pub fn drawn(location: String, shape: [usize; 3], tables: FeatureTables) -> Self {
        Self {
            location,
            shape: Some(shape),
            num: Some(tables.num),
            classes: Classes::Unknown,
            tables: Some(tables),
            statistics: None,
            moments: None,
        }
    }

    /// Returns this side with the means and covariances that all comparisons with these options need. They are the same as
    /// those of a single comparison.
    ///
    /// # Errors
    /// [`Error::Metric`] if there are fewer than two images.
    pub fn with_moments(mut self, extractor: &ExtractorIdentity, options: &MeasureOptions) -> Result<Self, Error> {
        self.moments = Some(Box::new(SideMoments::of(&self, extractor, options)?));
        Ok(self)
    }

    /// Returns this side for many comparisons: with the statistics of all its images, and for the metrics that compare
    /// images with images at most `num` of them.
    ///
    /// # Errors
    /// [`Error::Metric`] if there are fewer than two images.
    pub fn prepared(self, extractor: &ExtractorIdentity, num: u64) -> Result<Self, Error> {
        let Some(tables) = self.tables else { return Ok(self) };
        let statistics = match self.statistics {
            Some(statistics) => statistics,
            None => tables.statistics(extractor, None)?.given()?,
        };
        let tables = Some(tables.thinned(num, extractor));
        Ok(Self { tables, statistics: Some(statistics), moments: None, ..self })
    }

    fn report(&self) -> SideReport {
        let tables = self.tables.as_ref();
        let given = self.statistics.as_ref();
        SideReport {
            location: self.location.clone(),
            num: self.num.or(given.and_then(|given| given.num)),
            shape: self.shape,
            pixels: tables.map(|tables| tables.pixels.clone()).or(given.and_then(|given| given.pixels.clone())),
            statistics: given.map(|given| given.sha256.clone()),
        }
    }

    fn warned<'a>(&'a self, report: &'a SideReport) -> WarnedSide<'a> {
        WarnedSide { report, classes: self.classes, tables: self.tables.as_ref() }
    }
}

/// What is computed.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasureOptions {
    /// Whether to compute with the published evaluator's numerics.
    pub adm: bool,
    /// Whether to compute in float64.
    pub exact: bool,
    /// Whether to compute only FID, sFID, Inception Score, KID, precision and recall, which takes less time.
    pub only_main: bool,
    /// The neighbors whose distance is the radius of precision and recall.
    pub neighbors: usize,
    /// The same for density and coverage.
    pub density_neighbors: usize,
    /// The images of a split of the Inception Score.
    pub split: usize,
    /// The seed of random subsets.
    pub seed: u64,
}

impl Default for MeasureOptions {
    fn default() -> Self {
        Self { adm: true, exact: true, only_main: false, neighbors: 3, density_neighbors: 5, split: 5000, seed: 0 }
    }
}

/// The pieces of the Inception Score with an interval.
const PIECES: usize = 10;

/// Collects the metrics, in the order of the table.
struct Rows {
    rows: Vec<MetricRow>,
}

impl Rows {
    /// Adds a metric that is computed in both modes.
    fn add(
        &mut self,
        name: &'static str,
        how: &str,
        adm: Option<Computed>,
        exact: Option<Computed>,
    ) -> Result<(), Error> {
        let wrap = |value: Option<Computed>| value.transpose().map_err(|error| Error::Metric { metric: name, error });
        let (adm, exact) = (wrap(adm)?, wrap(exact)?);
        if adm.is_some() || exact.is_some() {
            self.rows.push(MetricRow { name: name.into(), adm, exact, how: how.into() });
        }
        Ok(())
    }
}

type Computed = Result<f64, MetricError>;

/// The statistics of a side's pooled and spatial features, as far as there are any.
#[derive(Debug)]
struct SideMoments {
    /// The modes, `adm` and `exact`, in which they were computed.
    modes: [bool; 2],
    pool: Option<Moments>,
    spatial: Option<Moments>,
}

impl SideMoments {
    /// Computes them.
    fn of(side: &Side, extractor: &ExtractorIdentity, options: &MeasureOptions) -> Result<Self, Error> {
        let given = side.statistics.as_ref();
        let moments = |metric, kind, given| {
            let features = features(side.tables.as_ref(), kind, extractor)?;
            Moments::of(given, features, options).map_err(|error| Error::Metric { metric, error })
        };
        Ok(Self {
            modes: [options.adm, options.exact],
            pool: moments("fid", Kind::Pool, given.map(|given| &given.pool))?,
            // Statistics without spatial ones do not stand in for them.
            spatial: moments("sfid", Kind::Spatial, given.and_then(|given| given.spatial.as_ref()))?,
        })
    }

    /// Returns those that the side keeps, if they are of the modes of `options`, else new ones, which go to `own`.
    fn kept_or_of<'a>(
        side: &'a Side,
        extractor: &ExtractorIdentity,
        options: &MeasureOptions,
        own: &'a mut Option<Self>,
    ) -> Result<&'a Self, Error> {
        match side.moments.as_deref().filter(|kept| kept.modes == [options.adm, options.exact]) {
            Some(kept) => Ok(kept),
            None => Ok(own.insert(Self::of(side, extractor, options)?)),
        }
    }
}

/// The statistics of a side in both modes, or in one.
#[derive(Debug)]
struct Moments {
    adm: Option<AdmStatistics>,
    exact: Option<Statistics>,
}

impl Moments {
    /// Returns given statistics, or those of features.
    fn of(
        given: Option<&AdmStatistics>,
        features: Option<Features<'_>>,
        options: &MeasureOptions,
    ) -> Result<Option<Self>, MetricError> {
        let moments = match (given, features) {
            (Some(given), _) => Self {
                adm: options.adm.then(|| given.clone()),
                exact: options.exact.then(|| given.statistics().clone()),
            },
            // The statistics of features are the same in both modes but for the mean.
            (None, Some(features)) if options.adm => {
                let adm = adm::statistics(&features)?;
                Self { exact: options.exact.then(|| adm.statistics().clone()), adm: Some(adm) }
            }
            (None, Some(features)) => Self { adm: None, exact: Some(Statistics::of(&features)?) },
            (None, None) => return Ok(None),
        };
        Ok(Some(moments))
    }
}

/// Compares two sides. What a side does not have the images or the network for is left out.
///
/// # Errors
/// [`Error::Refused`] if neither FID nor anything else can be computed; [`Error::Metric`] if a metric fails, for example
/// because there are too few images.
pub fn measure(
    samples: &Side,
    reference: &Side,
    extractor: &ExtractorIdentity,
    options: &MeasureOptions,
) -> Result<Report, Error> {
    let mut rows = Rows { rows: Vec::new() };
    let generated = features(samples.tables.as_ref(), Kind::Pool, extractor)?;
    let real = features(reference.tables.as_ref(), Kind::Pool, extractor)?;
    let how = match (&samples.statistics, &reference.statistics) {
        (None, None) => "pooled features",
        _ => "pooled features, given statistics",
    };
    let (mut of_samples, mut of_reference) = (None, None);
    let of_samples = SideMoments::kept_or_of(samples, extractor, options, &mut of_samples)?;
    let of_reference = SideMoments::kept_or_of(reference, extractor, options, &mut of_reference)?;
    let (Some(left), Some(right)) = (&of_samples.pool, &of_reference.pool) else {
        return Err(Error::Refused("there are neither images nor statistics on one side".into()));
    };
    distance(&mut rows, "fid", how, left, right)?;
    if let (Some(left), Some(right)) = (&of_samples.spatial, &of_reference.spatial) {
        distance(&mut rows, "sfid", &how.replace("pooled", "spatial"), left, right)?;
    }
    if let Some(logits) = features(samples.tables.as_ref(), Kind::Logits, extractor)? {
        inception_scores(&mut rows, &logits, options)?;
    }
    if let (Some(generated), Some(real)) = (generated, real) {
        manifold(&mut rows, &generated, &real, options)?;
        kernel(&mut rows, &generated, &real, options)?;
    }
    if let (Some(generated), Some(statistics)) = (generated, &right.exact)
        && !options.only_main
    {
        extrapolation(&mut rows, &generated, statistics, options)?;
    }
    let (samples_report, reference_report) = (samples.report(), reference.report());
    let warnings = warnings(samples.warned(&samples_report), reference.warned(&reference_report), extractor);
    Ok(Report {
        schema_version: REPORT_VERSION,
        admiral: env!("CARGO_PKG_VERSION").into(),
        libtorch: None,
        samples: samples_report,
        reference: reference_report,
        features: extractor.clone(),
        modes: [("adm", options.adm), ("exact", options.exact)]
            .into_iter()
            .filter(|(_, is_asked)| *is_asked)
            .map(|(mode, _)| mode.to_owned())
            .collect(),
        rounding: format!("float16, in blocks of {}; a block that overflows in float32", half::BLOCK),
        metrics: rows.rows,
        warnings,
    })
}

#[derive(Clone, Copy)]
enum Kind {
    Pool,
    Spatial,
    Logits,
}

/// Returns a table of features, if the network gives it.
fn features<'a>(
    tables: Option<&'a FeatureTables>,
    kind: Kind,
    extractor: &ExtractorIdentity,
) -> Result<Option<Features<'a>>, Error> {
    let Some(tables) = tables else { return Ok(None) };
    let (values, width) = match kind {
        Kind::Pool => (Some(&tables.pool), Some(extractor.pool)),
        Kind::Spatial => (tables.spatial.as_ref(), extractor.spatial),
        Kind::Logits => (tables.logits.as_ref(), extractor.classes),
    };
    let (Some(values), Some(width)) = (values, width) else { return Ok(None) };
    Features::new(values, width).map(Some).map_err(|error| Error::Metric { metric: "features", error })
}

fn distance(rows: &mut Rows, name: &'static str, how: &str, left: &Moments, right: &Moments) -> Result<(), Error> {
    if let (Some(adm_left), Some(adm_right), true) =
        (&left.adm, &right.adm, left.exact.is_some() && right.exact.is_some())
    {
        let both = adm::both_frechet_distances(adm_left, adm_right);
        let [adm, exact] = [0, 1].map(|mode| both.clone().map(|both| both[mode]));
        return rows.add(name, how, Some(adm), Some(exact));
    }
    let adm = left.adm.as_ref().zip(right.adm.as_ref()).map(|(left, right)| adm::frechet_distance(left, right));
    let exact = left.exact.as_ref().zip(right.exact.as_ref()).map(|(left, right)| frechet_distance(left, right));
    rows.add(name, how, adm, exact)
}

fn inception_scores(rows: &mut Rows, logits: &Features<'_>, options: &MeasureOptions) -> Result<(), Error> {
    let adm = options.adm.then(|| adm::inception_score(logits, options.split));
    let exact = options.exact.then(|| inception_score_of_logits(logits, options.split));
    rows.add("inception_score", &format!("pieces of {} in file order", options.split), adm, exact)?;
    if options.only_main || !options.exact || logits.num() < PIECES {
        return Ok(());
    }
    let order = random_order(logits.num(), options.seed);
    let spread = inception_score_of_pieces(logits, &order, PIECES);
    let deviation = spread.as_ref().map(|spread| spread.deviation).map_err(Clone::clone);
    rows.add("inception_score_10", "mean of 10 random pieces", None, Some(spread.map(|spread| spread.mean)))?;
    rows.add("inception_score_10_std", "their standard deviation", None, Some(deviation))
}

fn manifold(
    rows: &mut Rows,
    generated: &Features<'_>,
    real: &Features<'_>,
    options: &MeasureOptions,
) -> Result<(), Error> {
    let k = options.neighbors;
    let adm = options.adm.then(|| half::precision_recall(real, generated, k, half::BLOCK));
    let exact = options.exact.then(|| precision_recall(real, generated, k));
    let how = format!("radius of neighbor {k}; adm: distances in float16, blocks of {}", half::BLOCK);
    let precision = [&adm, &exact].map(|both| both.clone().map(|both| both.map(|both| both.precision)));
    let recall = [adm, exact].map(|both| both.map(|both| both.map(|both| both.recall)));
    for (name, [adm, exact]) in [("precision", precision), ("recall", recall)] {
        rows.add(name, &how, adm, exact)?;
    }
    if options.only_main || !options.exact {
        return Ok(());
    }
    let k = options.density_neighbors;
    if real.num() <= k {
        return Ok(());
    }
    let both = density_coverage(real, generated, k);
    let density = both.clone().map(|both| both.density);
    let how = format!("radius of neighbor {k}");
    rows.add("density", &how, None, Some(density))?;
    rows.add("coverage", &how, None, Some(both.map(|both| both.coverage)))
}

fn kernel(
    rows: &mut Rows,
    generated: &Features<'_>,
    real: &Features<'_>,
    options: &MeasureOptions,
) -> Result<(), Error> {
    if !options.exact {
        return Ok(());
    }
    rows.add("kid", "unbiased, all pairs", None, Some(kernel_inception_distance(generated, real)))?;
    let size = SUBSET_SIZE;
    if options.only_main || generated.num() < size || real.num() < size {
        return Ok(());
    }
    let spread = kernel_distance_of_subsets(generated, real, SUBSETS, size, options.seed);
    let deviation = spread.clone().map(|spread| spread.deviation);
    let how = format!("{SUBSETS} subsets of {size}");
    rows.add("kid_mean", &how, None, Some(spread.map(|spread| spread.mean)))?;
    rows.add("kid_std", "their standard deviation", None, Some(deviation))
}

fn extrapolation(
    rows: &mut Rows,
    generated: &Features<'_>,
    reference: &Statistics,
    options: &MeasureOptions,
) -> Result<(), Error> {
    // A part of the images must have more of them than features.
    if generated.num() < 2 * BLOCKS || generated.num() < 5 * generated.width() {
        return Ok(());
    }
    let found = BlockSums::new(generated, options.seed).and_then(|sums| sums.extrapolate(reference));
    let found = found.map_err(|error| Error::Metric { metric: "fid_infinity", error })?;
    rows.add("fid_infinity", "a line in 1 / n through sets of 20 % to all images", None, Some(Ok(found.at_infinity)))?;
    let how = format!("95 % interval of fid, jackknife over {BLOCKS} blocks");
    rows.add("fid_low", &how, None, Some(Ok(found.interval[0])))?;
    rows.add("fid_high", &how, None, Some(Ok(found.interval[1])))
}
