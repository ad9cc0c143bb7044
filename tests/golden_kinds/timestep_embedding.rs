//! Kind `timestep_embedding`.

use crate::support::{Case, Outcome, PASS, close, device};

pub fn check(case: &Case) -> Outcome {
    let dims: Vec<i64> = serde_json::from_value(case.config["dims"].clone()).map_err(|error| error.to_string())?;
    let timesteps = case.tensor("t")?.to_device(device());
    dims.into_iter().try_for_each(|dim| {
        let name = format!("dim_{dim}");
        close(&name, &admiral::model::timestep_embedding(&timesteps, dim), case.tensor(&name)?, PASS)
    })
}
