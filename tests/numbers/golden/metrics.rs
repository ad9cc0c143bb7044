//! Kind `metrics`: metrics of given features and probabilities.

use admiral_metrics::{
    Features, Statistics, frechet_distance, inception_score, kernel_inception_distance, nearest, precision_recall,
};
use tch::Tensor;

use super::support::{Case, Outcome};

/// The relative tolerance of metrics that are not counts.
const TOLERANCE: f64 = 1e-6;

fn table(case: &Case, name: &str) -> Result<(Vec<f32>, usize), String> {
    let tensor = case.tensor(name)?;
    let width = tensor.size()[1] as usize;
    let values: Vec<f32> = tensor.flatten(0, -1).try_into().map_err(|error| format!("{name}: {error}"))?;
    Ok((values, width))
}

fn number(case: &Case, name: &str) -> Result<f64, String> {
    case.config[name].as_f64().ok_or_else(|| format!("the configuration holds no number {name}"))
}

fn near(case: &Case, name: &str, actual: f64) -> Outcome {
    let expected = number(case, name)?;
    let error = (actual - expected).abs() / expected.abs();
    if error <= TOLERANCE { Ok(()) } else { Err(format!("{name} is {actual}, expected {expected}: {error:.2e}")) }
}

fn exact(case: &Case, name: &str, actual: f64) -> Outcome {
    let expected = number(case, name)?;
    if actual == expected { Ok(()) } else { Err(format!("{name} is {actual}, expected exactly {expected}")) }
}

fn features((values, width): &(Vec<f32>, usize)) -> Result<Features<'_>, String> {
    Features::new(values, *width).map_err(|error| error.to_string())
}

pub fn check(case: &Case) -> Outcome {
    let tables = [table(case, "reference")?, table(case, "generated")?, table(case, "probabilities")?];
    let (reference, generated) = (features(&tables[0])?, features(&tables[1])?);
    let statistics = |table| Statistics::of(table).map_err(|error| error.to_string());
    let fid = frechet_distance(&statistics(&reference)?, &statistics(&generated)?).map_err(|e| e.to_string())?;
    near(case, "fid", fid)?;

    let split = number(case, "inception_score_split")? as usize;
    let score = inception_score(&features(&tables[2])?, split).map_err(|e| e.to_string())?;
    near(case, "inception_score", score)?;

    let kid = kernel_inception_distance(&reference, &generated).map_err(|e| e.to_string())?;
    near(case, "kid_full_unbiased", kid)?;

    let k = number(case, "k")? as usize;
    let both = precision_recall(&reference, &generated, k).map_err(|e| e.to_string())?;
    exact(case, "precision", both.precision)?;
    exact(case, "recall", both.recall)?;

    let places: Vec<i64> =
        nearest(&generated, &reference).map_err(|e| e.to_string())?.into_iter().map(|place| place as i64).collect();
    super::support::close("nearest", &Tensor::from_slice(&places), case.tensor("nearest")?, 0.0)
}
