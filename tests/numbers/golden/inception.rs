//! Kind `inception`: the features of the Inception network with computed weights.

use admiral::evaluate::FeatureExtractor;
use admiral::evaluate::inception::{Inception, resized};
use admiral_inception::{TensorShape, Weights};
use tch::{Kind, Tensor};

use super::support::{Case, Outcome, close, kernels, uniform};

/// The tolerance of features and logits.
const FEATURES: f64 = 1e-4;

fn signed(salt: &str, key: &str, count: usize, scale: f64, offset: f64) -> Vec<f32> {
    uniform(salt, key, count).into_iter().map(|u| (offset + scale * (2.0 * u - 1.0)) as f32).collect()
}

/// Pairs of input channels have opposite weights.
fn paired(salt: &str, name: &str, shape: &[usize], scale: f64) -> Vec<f32> {
    let positions: usize = shape[2..].iter().product();
    let even = signed(salt, name, shape.iter().product::<usize>() / 2, scale, 0.0);
    let pair = |even: &[f32]| [even.to_vec(), even.iter().map(|value| -0.75 * value).collect()].concat();
    even.chunks(positions).flat_map(pair).collect()
}

/// The values of a tensor of the network.
pub fn fill(salt: &str, tensor: &TensorShape) -> Vec<f32> {
    let TensorShape { name, shape } = tensor;
    let fan_in = shape[1..].iter().product::<usize>() as f64;
    let count = tensor.num_elements();
    if name.ends_with("running_var") || name.ends_with("bn.weight") {
        signed(salt, name, count, 0.2, 1.0)
    } else if name == "fc.weight" {
        paired(salt, name, shape, 0.5)
    } else if shape.len() == 4 && shape[1] % 2 == 1 {
        signed(salt, name, count, 3.0 / fan_in.sqrt(), 0.0)
    } else if shape.len() == 4 {
        paired(salt, name, shape, 3.3 / fan_in.sqrt())
    } else {
        signed(salt, name, count, 0.1, 0.0)
    }
}

pub fn check(case: &Case) -> Outcome {
    let images = case.tensor("images")?;
    let first = images.narrow(0, 0, images.size()[0].min(3));
    let index = case.tensor("resized_index")?.to_kind(Kind::Int64);
    let chosen = resized(&first).map_err(|error| error.to_string())?.index_select(1, &index).index_select(2, &index);
    close("resized", &chosen, case.tensor("resized")?, 0.0)?;

    let weights = Weights::computed(|tensor| fill(&case.salt, tensor)).map_err(|error| error.to_string())?;
    let inception = Inception::new(&weights, &kernels()).map_err(|error| error.to_string())?;
    let found = inception.extract(images).map_err(|error| error.to_string())?;
    let part = |found: Option<Tensor>, name: &str| {
        close(name, &found.ok_or_else(|| format!("there are no {name}"))?, case.tensor(name)?, FEATURES)
    };
    part(Some(found.pool), "pool")?;
    part(found.spatial, "spatial")?;
    part(found.logits, "logits_unbiased")
}
