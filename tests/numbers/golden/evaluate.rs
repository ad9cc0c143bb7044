//! Kind `evaluate`: the metrics of two sets of pictures, from their pixels, in both modes.

use admiral::evaluate::inception::Inception;
use admiral::evaluate::{FeatureExtractor, append_features};
use admiral_evaluation::{FeatureTables, MeasureOptions, OpenedSide, PictureShape, Report, Side, measure};
use admiral_inception::Weights;
use admiral_metrics::{
    Features, MetricError, adm, half, inception_score_of_logits, inception_score_of_pieces,
    kernel_distance_of_given_subsets, nearest, radii,
};
use admiral_statistics::ExtractorIdentity;
use admiral_storage::StoreOptions;
use serde_json::Value;
use tch::Tensor;

use super::inception::fill;
use super::support::{Case, Outcome, close, folder, kernels, signed};

/// The relative tolerances of "How close is close": FID and sFID exact, Inception Score and everything of `adm`, KID.
const EXACT: f64 = 2e-5;
const ADM: f64 = 5e-5;
const KID: f64 = 1e-4;
/// The tolerance of fingerprints of features, and of radii.
const FINGERPRINT: f64 = 1e-4;
/// The pictures by which precision and recall may differ: from `half`, and from the evaluator itself.
const PICTURES: [f64; 2] = [1.0, 3.0];

fn near(name: &str, actual: f64, expected: f64, tolerance: f64) -> Outcome {
    let error = (actual - expected).abs() / expected.abs();
    if error <= tolerance { Ok(()) } else { Err(format!("{name} is {actual}, expected {expected}: {error:.2e}")) }
}

/// Compares a metric with `config.{mode}.{name}`, if the case has it.
fn check_metric(case: &Case, mode: &str, name: &str, actual: Option<f64>, tolerance: f64) -> Outcome {
    let Some(expected) = case.config[mode][name].as_f64() else { return Ok(()) };
    let actual = actual.ok_or_else(|| format!("{mode} has no {name}"))?;
    near(&format!("{mode}.{name}"), actual, expected, tolerance)
}

fn value(report: &Report, name: &str, mode: &str) -> Option<f64> {
    let row = report.metrics.iter().find(|row| row.name == name)?;
    if mode == "adm" { row.adm } else { row.exact }
}

fn tables_of(extractor: &dyn FeatureExtractor, images: &Tensor) -> Result<FeatureTables, String> {
    let mut tables = FeatureTables::empty(extractor.identity());
    append_features(&mut tables, &extractor.extract(images).map_err(|error| error.to_string())?);
    Ok(tables)
}

/// Compares the norm of each picture's features, and their product with the probe.
fn check_fingerprint(case: &Case, set: &str, tables: &FeatureTables, identity: &ExtractorIdentity) -> Outcome {
    let spatial = tables.spatial.as_ref().zip(identity.spatial);
    for (kind, (values, width)) in [("pool", Some((&tables.pool, identity.pool))), ("spatial", spatial)]
        .into_iter()
        .filter_map(|(k, v)| Some((k, v?)))
    {
        let Ok(expected) = case.tensor(&format!("fingerprint.{kind}.{set}")) else { continue };
        let probe = signed(&case.salt, &format!("probe/{kind}"), &[width as i64], 1.0, 0.0).to_kind(tch::Kind::Double);
        let rows = Tensor::from_slice(values).view([-1, width as i64]).to_kind(tch::Kind::Double);
        let norms = rows.square().sum_dim_intlist([1i64].as_slice(), false, tch::Kind::Double).sqrt();
        for (column, found) in [norms, rows.mv(&probe)].iter().enumerate() {
            let name = format!("fingerprint.{kind}.{set}[{column}]");
            close(&name, found, &expected.select(1, column as i64), FINGERPRINT)?;
        }
    }
    Ok(())
}

fn side(tables: FeatureTables, shape: [usize; 3]) -> Side {
    Side::drawn("golden".into(), shape, tables)
}

fn shape_of(images: &Tensor) -> [usize; 3] {
    let size = images.size();
    [size[1] as usize, size[2] as usize, size[3] as usize]
}

/// Returns the values of a tensor. `None` if the case does not have it.
fn vector<T>(case: &Case, name: &str) -> Result<Option<Vec<T>>, String>
where
    Vec<T>: TryFrom<Tensor>,
{
    let Ok(tensor) = case.tensor(name) else { return Ok(None) };
    tensor.flatten(0, -1).shallow_clone().try_into().map(Some).map_err(|_| format!("{name} has another type"))
}

pub fn check(case: &Case) -> Outcome {
    let weights = Weights::computed(|tensor| fill(&case.salt, tensor)).map_err(|error| error.to_string())?;
    let extractor = Inception::new(&weights, &kernels()).map_err(|error| error.to_string())?;
    let identity = extractor.identity();
    let images = case.tensor("generated")?;
    let generated = tables_of(&extractor, images)?;
    check_fingerprint(case, "generated", &generated, identity)?;
    let samples = side(generated, shape_of(images));
    let reference = match case.config["reference_npz"].as_str() {
        Some(name) => {
            let path = folder().join(name).display().to_string();
            let pictures = PictureShape { size: None, channels: 3 };
            let mut opened =
                OpenedSide::open(&path, pictures, &StoreOptions::default()).map_err(|error| error.to_string())?;
            opened.check_features(identity).map_err(|error| error.to_string())?;
            let images = opened.images.as_mut().ok_or("the npz file has no pictures")?;
            let [height, width, channels] = images.shape().map(|side| side as i64);
            let pixels = images.read(0..images.num()).map_err(|error| error.to_string())?;
            let pixels = Tensor::from_slice(&pixels).view([-1, height, width, channels]);
            let tables = tables_of(&extractor, &pixels)?;
            Side::new(opened, Some(tables))
        }
        None => {
            let images = case.tensor("reference")?;
            let tables = tables_of(&extractor, images)?;
            check_fingerprint(case, "reference", &tables, identity)?;
            side(tables, shape_of(images))
        }
    };
    check_metrics(case, &samples, &reference, identity)?;
    let pool = |side: &Side| side.tables.as_ref().map(|tables| tables.pool.clone()).unwrap_or_default();
    let (left, right) = (pool(&samples), pool(&reference));
    let table = |values| Features::new(values, identity.pool).map_err(|error| error.to_string());
    let largest = largest_norm(&left, identity.pool).max(largest_norm(&right, identity.pool));
    check_rows(case, &table(&left)?, &table(&right)?, 2.0 * spacing_of_half(largest))?;
    let logits = samples.tables.as_ref().and_then(|tables| tables.logits.clone()).unwrap_or_default();
    let logits = Features::new(&logits, identity.classes.unwrap_or(1)).map_err(|error| error.to_string())?;
    check_pieces(case, &logits)
}

/// The metrics that a report has.
fn check_metrics(case: &Case, samples: &Side, reference: &Side, identity: &ExtractorIdentity) -> Outcome {
    let neighbors = case.config["k"].as_u64().ok_or("the configuration holds no k")? as usize;
    let options = MeasureOptions { neighbors, only_main: true, ..MeasureOptions::default() };
    let report = measure(samples, reference, identity, &options).map_err(|error| error.to_string())?;
    for mode in ["adm", "exact"] {
        check_metric(case, mode, "inception_score", value(&report, "inception_score", mode), ADM)?;
    }
    for name in ["fid", "sfid"] {
        check_metric(case, "exact", name, value(&report, name, "exact"), EXACT)?;
        check_metric(case, "adm", name, value(&report, name, "adm"), ADM)?;
    }
    check_metric(case, "exact", "kid_all", value(&report, "kid", "exact"), KID)?;
    let numbers = [samples, reference].map(|side| side.tables.as_ref().map_or(1, |tables| tables.num) as f64);
    for (name, number) in ["precision", "recall"].into_iter().zip(numbers) {
        check_metric(case, "exact", name, value(&report, name, "exact"), 0.0)?;
        let found = value(&report, name, "adm").ok_or("adm has no precision")?;
        for (mode, pictures) in ["half", "adm"].into_iter().zip(PICTURES) {
            let expected = case.config[mode][name].as_f64().ok_or_else(|| format!("there is no {mode}.{name}"))?;
            let difference = (found - expected).abs() * number;
            if difference > pictures + 1e-6 {
                return Err(format!("{name} is {found}, {mode} has {expected}: {difference} pictures"));
            }
        }
    }
    Ok(())
}

/// What the case holds for each picture.
/// `steps` is by how much distances in float16 may differ.
fn check_rows(case: &Case, generated: &Features<'_>, reference: &Features<'_>, steps: f32) -> Outcome {
    let error = |error: MetricError| error.to_string();
    let places: Vec<i64> =
        nearest(generated, reference).map_err(error)?.into_iter().map(|place| place as i64).collect();
    close("nearest", &Tensor::from_slice(&places), case.tensor("nearest")?, 0.0)?;
    let k = case.config["k"].as_u64().ok_or("the configuration holds no k")? as usize;
    for (set, table) in [("generated", generated), ("reference", reference)] {
        if let Some(expected) = vector::<f64>(case, &format!("exact.radii.{set}"))? {
            // The case has squared distances.
            for (found, expected) in radii(table, k).map_err(error)?.into_iter().zip(expected) {
                near(&format!("exact.radii.{set}"), found, expected, FINGERPRINT)?;
            }
        }
        if let Some(expected) = vector::<f32>(case, &format!("half.radii.{set}"))? {
            let found = half::radii(table, k, half::BLOCK).map_err(error)?;
            let differing = found.iter().zip(&expected).filter(|(found, expected)| found != expected).count();
            // Distances are differences of norms, which are rounded to float16.
            let far = found.iter().zip(&expected).any(|(found, expected)| (found - expected).abs() > steps);
            if far || differing * 10 > expected.len() {
                return Err(format!("half.radii.{set}: {differing} of {} differ", expected.len()));
            }
        }
    }
    let (Ok(left), Ok(right)) = (case.tensor("kid.generated"), case.tensor("kid.reference")) else { return Ok(()) };
    let rows = |tensor: &Tensor, row: i64| -> Result<Vec<usize>, String> {
        let indices: Vec<i64> = tensor.select(0, row).to_kind(tch::Kind::Int64).try_into().map_err(|_| "no indices")?;
        Ok(indices.into_iter().map(|index| index as usize).collect())
    };
    let subsets: Result<Vec<[Vec<usize>; 2]>, String> =
        (0..left.size()[0]).map(|row| Ok([rows(left, row)?, rows(right, row)?])).collect();
    let spread = kernel_distance_of_given_subsets(generated, reference, &subsets?).map_err(error)?;
    check_metric(case, "exact", "kid_mean", Some(spread.mean), KID)?;
    check_metric(case, "exact", "kid_std", Some(spread.deviation), KID)
}

/// The largest square norm of a row.
fn largest_norm(values: &[f32], width: usize) -> f32 {
    values.chunks_exact(width).map(|row| row.iter().map(|value| value * value).sum::<f32>()).fold(0.0, f32::max)
}

/// The distance between neighboring float16 numbers at a value.
fn spacing_of_half(value: f32) -> f32 {
    (value.log2().floor() - 10.0).exp2()
}

/// The Inception Score of pieces of other sizes, and of ten pieces in the order of the case.
fn check_pieces(case: &Case, logits: &Features<'_>) -> Outcome {
    for split in [64, 50] {
        let (name, text) = (format!("inception_score_split_{split}"), |error: MetricError| error.to_string());
        check_metric(case, "adm", &name, Some(adm::inception_score(logits, split).map_err(text)?), ADM)?;
        check_metric(case, "exact", &name, Some(inception_score_of_logits(logits, split).map_err(text)?), ADM)?;
    }
    let Some(order) = vector::<i64>(case, "isc.permutation")? else { return Ok(()) };
    let order: Vec<usize> = order.into_iter().map(|image| image as usize).collect();
    let spread = inception_score_of_pieces(logits, &order, 10).map_err(|error| error.to_string())?;
    check_metric(case, "exact", "inception_score_10_mean", Some(spread.mean), ADM)?;
    check_metric(case, "exact", "inception_score_10_std", Some(spread.deviation), 10.0 * ADM)?;
    let published: &Value = &case.config["torch_fidelity"]["inception_score_mean"];
    published.as_f64().map_or(Ok(()), |expected| near("torch_fidelity", spread.mean, expected, ADM))
}
