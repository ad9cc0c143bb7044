//! Kind `temperature`: sampling at reduced temperature, of the noise or of ε (the paper's appendix G).

use serde::Deserialize;
use tch::Tensor;

use super::loops::{CLAMPED, GoldenNetwork, Loop, close_sample, close_states, input};
use super::support::{Case, Outcome};

#[derive(Deserialize)]
struct Temperature {
    temperature: f64,
    applies_to: AppliesTo,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum AppliesTo {
    Noise,
    Epsilon,
}

pub fn check(case: &Case) -> Outcome {
    let config: Temperature =
        serde_json::from_value(case.config.clone()).map_err(|error| format!("config: {error}"))?;
    let mut sampler = Loop::read(&case.config)?;
    match config.applies_to {
        AppliesTo::Noise => sampler.noise_temperature = config.temperature,
        AppliesTo::Epsilon => sampler.options.epsilon_temperature = config.temperature,
    }
    let network = GoldenNetwork::read(&case.config["model"], &case.salt)?;
    let labels = input(case, "y");
    let model = |x: &Tensor, timesteps: &Tensor| network.call(x, timesteps, labels.as_ref(), None);
    let states = sampler.states(&model, case.tensor("x_T")?, Some(case.tensor("step_noise")?), None)?;
    close_states("step.x", &states, case.tensor("step.x")?, CLAMPED)?;
    close_sample(case, "", &states.get(-1))
}
