//! Kind `sample`: whole sampling loops with real networks.

use admiral::diffusion::{GuidedModel, Sampler, SolverOptions, SolverPlan, Trajectory, classifier_gradient, to_bytes};
use admiral::model::Inputs;
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::diffusion::ProcessFlags;
use super::loops::GoldenNetwork;
use super::support::{Case, GRADIENT, Outcome, close, device, kernels};

#[derive(Deserialize)]
struct LoopConfig {
    classifier_scale: f64,
    use_ddim: bool,
    eta: f64,
    clip_denoised: bool,
}

/// A value within the tolerance of a boundary between two bytes may be rounded to either.
const MAX_BYTE_DIFFERENCE: f64 = 1.0;

pub fn check(case: &Case) -> Outcome {
    let config: LoopConfig = serde_json::from_value(case.config.clone()).map_err(|error| format!("config: {error}"))?;
    let mut flags = ProcessFlags::read(&case.config)?;
    flags.learn_sigma = case.config["model"]["learn_sigma"].as_bool().unwrap_or(false);
    let process = flags.config();
    let GoldenNetwork { network, params } = GoldenNetwork::read(&case.config["model"], &case.salt)?;
    let kernels = kernels();
    let input = |name: &str| case.tensors.get(name).map(|tensor| tensor.to_device(device()));
    let (labels, low_res) = (input("y"), input("low_res"));
    let model = |x: &Tensor, timesteps: &Tensor| {
        let inputs = Inputs { x, timesteps, labels: labels.as_ref(), low_res: low_res.as_ref() };
        network.forward(&kernels, &params, &inputs, None)
    };

    let classifier = if case.config["classifier"].is_null() {
        None
    } else {
        Some(GoldenNetwork::read(&case.config["classifier"], &case.salt)?)
    };
    let logits = |x: &Tensor, timesteps: &Tensor| {
        let GoldenNetwork { network, params } = classifier.as_ref().expect("only guided cases ask for logits");
        network.forward(&kernels, params, &Inputs { x, timesteps, labels: None, low_res: None }, None)
    };
    let gradient = |x: &Tensor, timesteps: &Tensor| {
        let labels = labels.as_ref().expect("guided cases have labels");
        classifier_gradient(&logits, labels, config.classifier_scale, x, timesteps)
    };

    let sampler = if config.use_ddim { Sampler::DDIM } else { Sampler::DDPM };
    let options = SolverOptions {
        timestep_respacing: process.timestep_respacing.clone(),
        eta: config.eta,
        clip_denoised: config.clip_denoised,
        ..SolverOptions::default()
    };
    let plan = SolverPlan::new(sampler, &options, &process).map_err(|error| error.to_string())?;
    let guided = GuidedModel { predict: &model, gradient: if classifier.is_some() { Some(&gradient) } else { None } };
    let step_noise = case.tensor("step_noise")?.to_device(device());
    let mut noise = |step: usize| step_noise.get(step as i64);
    let x_last = case.tensor("x_T")?.to_device(device());
    let sample = Trajectory::new(plan.start(), guided, &x_last, &mut noise).finish();
    close("sample", &sample, case.tensor("sample")?, GRADIENT)?;
    let bytes = |tensor: &Tensor| tensor.to_device(tch::Device::Cpu).to_kind(Kind::Int);
    let expected = case.tensor("sample_u8")?;
    // The conversion of the same values is exact. Our sample may differ by one level.
    close("bytes", &bytes(&to_bytes(case.tensor("sample")?)), &bytes(expected), 0.0)?;
    let largest = bytes(expected).max().double_value(&[]);
    close("sample_u8", &bytes(&to_bytes(&sample)), &bytes(expected), MAX_BYTE_DIFFERENCE / largest)
}
