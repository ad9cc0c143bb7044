//! Kind `timestep_embedding`.

use super::support::{Case, Outcome, PASS, close, device};

/// One unit in the last place of the largest frequencies, which are just below 1. Math libraries compute the
/// exponential with this error, so the angle, timestep times frequency, has this error times the timestep. PyTorch
/// differs by 3e-5 between two machines at timestep 999.
const LAST_PLACE: f64 = 1.0 / (1 << 24) as f64;

pub fn check(case: &Case) -> Outcome {
    let dims: Vec<i64> = serde_json::from_value(case.config["dims"].clone()).map_err(|error| error.to_string())?;
    let timesteps = case.tensor("t")?.to_device(device());
    for dim in dims {
        let name = format!("dim_{dim}");
        let (found, expected) = (admiral::model::timestep_embedding(&timesteps, dim), case.tensor(&name)?);
        for row in 0..timesteps.size()[0] {
            let timestep = timesteps.double_value(&[row]);
            let what = format!("{name}, timestep {timestep}");
            close(&what, &found.select(0, row), &expected.select(0, row), PASS + timestep * LAST_PLACE)?;
        }
    }
    Ok(())
}
