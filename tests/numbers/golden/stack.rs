//! Kind `stack`: a guided base model, then an upsampler (the paper's section 5.2).

use serde_json::Value;
use tch::{Kind, Tensor};

use super::loops::{CLAMPED, GoldenNetwork, Loop, close_sample, close_states, input};
use super::support::{Case, Outcome, close, device};

/// Returns the configuration of a stage, with the fields that both stages share.
fn stage(case: &Case, name: &str) -> Value {
    let mut config = case.config[name].clone();
    for shared in ["diffusion_steps", "clip_denoised"] {
        config[shared] = case.config[shared].clone();
    }
    config
}

pub fn check(case: &Case) -> Outcome {
    let config = stage(case, "base");
    let sampler = Loop::read(&config)?;
    let network = GoldenNetwork::read(&config["model"], &case.salt)?;
    let classifier = GoldenNetwork::read(&config["classifier"], &case.salt)?;
    let scale = config["classifier_scale"].as_f64().ok_or("the base has a classifier_scale")?;
    let labels = input(case, "y").ok_or("the case has classes")?;
    let model = |x: &Tensor, timesteps: &Tensor| network.call(x, timesteps, Some(&labels), None);
    let guide = |x: &Tensor, timesteps: &Tensor| classifier.gradient(&labels, scale, x, timesteps);
    let noise = case.tensor("base.step_noise")?;
    let states = sampler.states(&model, case.tensor("base.x_T")?, Some(noise), Some(&guide))?;
    close_sample(case, "base.", &states.get(-1))?;

    let bytes = case.tensor("base.sample_u8")?.to_device(device());
    let low_res = (bytes.to_kind(Kind::Float) / 127.5 - 1.0).permute([0, 3, 1, 2]).contiguous();
    close("upsampler.low_res", &low_res, case.tensor("upsampler.low_res")?, 0.0)?;
    let config = stage(case, "upsampler");
    let network = GoldenNetwork::read(&config["model"], &case.salt)?;
    let model = |x: &Tensor, timesteps: &Tensor| network.call(x, timesteps, Some(&labels), Some(&low_res));
    let (x_last, noise) = (case.tensor("upsampler.x_T")?, case.tensor("upsampler.step_noise")?);
    let states = Loop::read(&config)?.states(&model, x_last, Some(noise), None)?;
    close_states("step.x", &states, case.tensor("step.x")?, CLAMPED)?;
    close_sample(case, "", &states.get(-1))
}
