//! What the kinds with sampling loops share: networks, samplers, and comparison of states and bytes.

use admiral::diffusion::{
    DiffusionConfig, GaussianDiffusion, Gradient, GuidedModel, Model, Sampler, SolverOptions, SolverPlan, Trajectory,
    classifier_gradient, to_bytes,
};
use admiral::model::{Inputs, Network, Params};
use serde::Deserialize;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::diffusion::ProcessFlags;
use super::network::{NetworkConfig, golden_params};
use super::support::{Case, Outcome, close, device, kernels};

/// The tolerance of states where x_0 is clamped, because clamping turns rounding at high noise into other pixels.
pub const CLAMPED: f64 = 5e-4;

/// The distance of (x + 1) * 127.5 from a whole number below which a pixel may be rounded to another byte.
const ROUNDING: f64 = 0.05;

/// A network with the values of its parameters.
pub struct GoldenNetwork {
    pub network: Network,
    pub params: Params,
}

impl GoldenNetwork {
    pub fn read(config: &Value, salt: &str) -> Result<Self, String> {
        let config = NetworkConfig::read(config)?;
        let (network, specs) = Network::build(&config.spec()?);
        Ok(Self { network, params: golden_params(salt, &specs, config.use_fp16) })
    }

    /// Runs the network. `classes` are labels or class embeddings.
    pub fn call(&self, x: &Tensor, timesteps: &Tensor, classes: Option<&Tensor>, low_res: Option<&Tensor>) -> Tensor {
        let inputs = Inputs { x, timesteps, labels: classes, low_res };
        self.network.forward(&kernels(), &self.params, &inputs, None)
    }

    /// The gradient of a classifier for the labels.
    pub fn gradient(&self, labels: &Tensor, scale: f64, x: &Tensor, timesteps: &Tensor) -> Tensor {
        classifier_gradient(&|x, timesteps| self.call(x, timesteps, None, None), labels, scale, x, timesteps)
    }
}

#[derive(Deserialize)]
struct SamplerFlags {
    #[serde(default)]
    use_ddim: bool,
    #[serde(default)]
    eta: f64,
    clip_denoised: bool,
}

/// A sampling loop.
pub struct Loop {
    pub process: DiffusionConfig,
    pub diffusion: GaussianDiffusion,
    pub sampler: Sampler,
    pub options: SolverOptions,
    pub noise_temperature: f64,
}

impl Loop {
    /// Reads the process and the loop of a case. `model.learn_sigma` is the process's.
    pub fn read(config: &Value) -> Result<Self, String> {
        let mut process = ProcessFlags::read(config)?;
        process.learn_sigma = config["model"]["learn_sigma"] == true;
        let flags: SamplerFlags = serde_json::from_value(config.clone()).map_err(|error| format!("config: {error}"))?;
        let (diffusion, process) = (process.build()?, process.config());
        let options = SolverOptions {
            timestep_respacing: process.timestep_respacing.clone(),
            eta: flags.eta,
            clip_denoised: flags.clip_denoised,
            ..SolverOptions::default()
        };
        let sampler = if flags.use_ddim { Sampler::DDIM } else { Sampler::DDPM };
        Ok(Self { process, diffusion, sampler, options, noise_temperature: 1.0 })
    }

    /// Runs the loop from `x_last` and returns the state after each step, `[steps, batch, channels, height, width]`.
    /// `step_noise` has the noise of each step, unless the loop draws none.
    pub fn states(
        &self,
        model: &Model,
        x_last: &Tensor,
        step_noise: Option<&Tensor>,
        guidance: Option<&Gradient>,
    ) -> Result<Tensor, String> {
        let plan = SolverPlan::new(self.sampler, &self.options, &self.process).map_err(|error| error.to_string())?;
        let guided = GuidedModel { predict: model, gradient: guidance };
        let step_noise = step_noise.map(|noise| noise.to_device(device()));
        let mut noise = |step: usize| step_noise.as_ref().expect("the loop has noise").get(step as i64);
        let x_last = x_last.to_device(device());
        let steps = Trajectory::new(plan.start(), guided, &x_last, &mut noise)
            .with_noise_temperature(self.noise_temperature)
            .map(|step| step.sample);
        Ok(Tensor::stack(&steps.collect::<Vec<_>>(), 0))
    }
}

/// Moves an input of the case, if it has it, to the device.
pub fn input(case: &Case, name: &str) -> Option<Tensor> {
    case.tensors.get(name).map(|tensor| tensor.to_device(device()))
}

/// Compares the state after each step, relative to the largest value of that state.
pub fn close_states(name: &str, states: &Tensor, expected: &Tensor, tolerance: f64) -> Outcome {
    if states.size() != expected.size() {
        return Err(format!("{name}: shape {:?}, expected {:?}", states.size(), expected.size()));
    }
    (0..expected.size()[0])
        .try_for_each(|i| close(&format!("{name}[{i}]"), &states.get(i), &expected.get(i), tolerance))
}

/// Compares images as floats and as bytes with the case's `{prefix}sample` and `{prefix}sample_u8`.
pub fn close_sample(case: &Case, prefix: &str, sample: &Tensor) -> Outcome {
    let name = |end: &str| format!("{prefix}sample{end}");
    let expected = case.tensor(&name(""))?;
    close(&name(""), sample, expected, CLAMPED)?;
    let levels = |tensor: &Tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Int);
    let bytes = levels(case.tensor(&name("_u8"))?);
    let own = levels(&to_bytes(&sample.to_device(Device::Cpu)));
    let scaled = ((expected.to_kind(Kind::Double) + 1.0) * 127.5).permute([0, 2, 3, 1]);
    let may_differ = (&scaled - scaled.round()).abs().lt(ROUNDING).to_kind(Kind::Int);
    let excess = ((own - bytes).abs() - may_differ).max().int64_value(&[]);
    if excess > 0 { Err(format!("{}: {excess} levels more than rounding explains", name("_u8"))) } else { Ok(()) }
}
