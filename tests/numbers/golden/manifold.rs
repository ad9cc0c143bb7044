//! Kind `manifold`: distances, radii, precision and recall of given features, in half precision and exact.

use admiral_metrics::{Features, PrecisionRecall, half, precision_recall, radii};

use super::support::{Case, Outcome};

fn floats(case: &Case, name: &str) -> Result<Vec<f32>, String> {
    case.tensor(name)?.flatten(0, -1).try_into().map_err(|error| format!("{name}: {error}"))
}

fn doubles(case: &Case, name: &str) -> Result<Vec<f64>, String> {
    case.tensor(name)?.flatten(0, -1).try_into().map_err(|error| format!("{name}: {error}"))
}

/// Checks that all values are the same, to the bit.
fn same<T: PartialEq + std::fmt::Display>(name: &str, actual: &[T], expected: &[T]) -> Outcome {
    if actual.len() != expected.len() {
        return Err(format!("{name} has {} values, expected {}", actual.len(), expected.len()));
    }
    match actual.iter().zip(expected).position(|(actual, expected)| actual != expected) {
        Some(index) => Err(format!("{name}[{index}] is {}, expected {}", actual[index], expected[index])),
        None => Ok(()),
    }
}

fn same_fractions(case: &Case, name: &str, actual: PrecisionRecall) -> Outcome {
    let number = |field: &str| {
        case.config[name][field].as_f64().ok_or_else(|| format!("the configuration holds no number {name}.{field}"))
    };
    same(name, &[actual.precision, actual.recall], &[number("precision")?, number("recall")?])
}

pub fn check(case: &Case) -> Outcome {
    let width = case.tensor("reference")?.size()[1] as usize;
    let tables = [floats(case, "reference")?, floats(case, "generated")?];
    let features = |values| Features::new(values, width).map_err(|error| error.to_string());
    let (reference, generated) = (features(&tables[0])?, features(&tables[1])?);
    let size = |name: &str| {
        let number = case.config[name].as_u64().ok_or_else(|| format!("the configuration holds no number {name}"))?;
        Ok::<usize, String>(number as usize)
    };
    let (k, block) = (size("k")?, size("block")?);

    let distances = half::distances(&reference, &generated, block).map_err(|error| error.to_string())?;
    same("half.distances", &distances, &floats(case, "half.distances")?)?;
    for (set, table) in [("reference", &reference), ("generated", &generated)] {
        let name = format!("half.radii.{set}");
        same(&name, &half::radii(table, k, block).map_err(|error| error.to_string())?, &floats(case, &name)?)?;
        let name = format!("exact.radii.{set}");
        same(&name, &radii(table, k).map_err(|error| error.to_string())?, &doubles(case, &name)?)?;
    }
    let both = half::precision_recall(&reference, &generated, k, block).map_err(|error| error.to_string())?;
    same_fractions(case, "half", both)?;
    same_fractions(case, "exact", precision_recall(&reference, &generated, k).map_err(|error| error.to_string())?)
}
