//! Kind `cfg`: classifier-free guidance and autoguidance.

use admiral::diffusion::{autoguidance, classifier_free_guidance};
use serde::Deserialize;
use tch::Tensor;

use super::loops::{CLAMPED, GoldenNetwork, Loop, close_sample, close_states, input};
use super::support::{Case, Outcome};

#[derive(Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
enum Mode {
    ClassifierFree { guidance: f64, null_class: i64 },
    Autoguidance { guidance: f64, bad_salt: String, bad_model: serde_json::Value },
}

pub fn check(case: &Case) -> Outcome {
    let mode: Mode = serde_json::from_value(case.config.clone()).map_err(|error| format!("config: {error}"))?;
    let sampler = Loop::read(&case.config)?;
    let network = GoldenNetwork::read(&case.config["model"], &case.salt)?;
    let labels = input(case, "y").ok_or("the case has classes")?;
    let main = |x: &Tensor, timesteps: &Tensor| network.call(x, timesteps, Some(&labels), None);
    let x_last = case.tensor("x_T")?;
    let run = |guided: &admiral::diffusion::Model| sampler.states(guided, x_last, case.tensors.get("step_noise"), None);
    let states = match mode {
        Mode::ClassifierFree { guidance, null_class } => {
            let null = labels.full_like(null_class);
            let unconditional = |x: &Tensor, timesteps: &Tensor| network.call(x, timesteps, Some(&null), None);
            run(&|x, timesteps| classifier_free_guidance(&main, &unconditional, guidance, x, timesteps))?
        }
        Mode::Autoguidance { guidance, bad_salt, bad_model } => {
            let bad = GoldenNetwork::read(&bad_model, &bad_salt)?;
            let bad = |x: &Tensor, timesteps: &Tensor| bad.call(x, timesteps, Some(&labels), None);
            run(&|x, timesteps| autoguidance(&main, &bad, guidance, x, timesteps))?
        }
    };
    close_states("step.x", &states, case.tensor("step.x")?, CLAMPED)?;
    close_sample(case, "", &states.get(-1))
}
