//! Kind `solver`: whole trajectories of the solvers at any noise level, with and without their networks.

use std::cell::RefCell;

use admiral::diffusion::{
    DiffusionConfig, DynamicThresholding, GuidedModel, Interpolated, Level, NoiseRange, NoiseSchedule, SolverOptions,
    SolverPlan, SolverType, TimeGrid, Trajectory, Variance, classifier_gradient, to_bytes,
};
use admiral::model::Inputs;
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::loops::GoldenNetwork;
use super::support::{Case, Outcome, close, device, kernels};

/// The tolerance of grids.
const GRID: f64 = 1e-9;
/// The tolerance of a replay of the network's outputs.
const REPLAY: f64 = 1e-6;
/// The tolerance of the states of a trajectory.
const STATE: f64 = 1e-5;
/// The tolerance of `deis_tab`.
const STATE_QUADRATURE: f64 = 5e-5;
/// The tolerance of states where x_0 is clamped to [-1, 1].
const STATE_CLAMPED: f64 = 5e-4;

/// The settings of the published code.
#[derive(Deserialize)]
struct Settings {
    algorithm: String,
    prediction: String,
    noise_schedule: NoiseSchedule,
    diffusion_steps: usize,
    steps: usize,
    order: usize,
    thresholding: Option<String>,
    dynamic_thresholding_ratio: Option<f64>,
    thresholding_max_val: Option<f64>,
    classifier_scale: f64,
    method: Option<String>,
    skip_type: Option<String>,
    t_start: Option<f64>,
    t_end: Option<f64>,
    lower_order_final: Option<bool>,
    denoise_to_zero: Option<bool>,
    solver_type: Option<String>,
    variant: Option<String>,
    ts_order: Option<u32>,
    discretization: Option<String>,
    sigma_min: Option<f64>,
    sigma_max: Option<f64>,
    rho: Option<f64>,
}

impl Settings {
    /// The name of the solver.
    fn sampler(&self) -> Result<String, String> {
        let method = match self.method.as_deref() {
            Some("singlestep") => "s",
            _ => "m",
        };
        Ok(match self.algorithm.as_str() {
            "dpmsolver++" => format!("dpmpp_{}{method}", self.order),
            "dpmsolver" => format!("dpm_{}{method}", self.order),
            "unipc" => format!("unipc_{}", self.variant.as_deref().unwrap_or_default()),
            "deis_tab" | "ipndm" | "heun" => self.algorithm.clone(),
            other => return Err(format!("the algorithm {other} is unknown")),
        })
    }

    fn options(&self) -> Result<SolverOptions, String> {
        let is_unipc = self.algorithm == "unipc";
        let has_order = is_unipc || ["deis_tab", "ipndm"].contains(&self.algorithm.as_str());
        let time_grid = match (self.skip_type.as_deref(), self.ts_order, self.discretization.as_deref()) {
            (Some("time_uniform"), ..) | (None, Some(1), None) | (None, None, Some("iddpm")) => TimeGrid::Uniform,
            (Some("time_quadratic"), ..) | (None, Some(2), None) => TimeGrid::Quadratic,
            (Some("logSNR"), ..) => TimeGrid::Logsnr,
            (None, None, Some("edm")) => TimeGrid::Karras,
            other => return Err(format!("the grid {other:?} is unknown")),
        };
        let noise_range = match (self.sigma_min, self.sigma_max, self.rho) {
            (Some(sigma_min), Some(sigma_max), Some(rho)) => Some(NoiseRange { sigma_min, sigma_max, rho }),
            _ => None,
        };
        let dynamic_thresholding = (self.thresholding.as_deref() == Some("dynamic")).then(|| DynamicThresholding {
            quantile: self.dynamic_thresholding_ratio.unwrap_or(0.995),
            max: self.thresholding_max_val.unwrap_or(1.0),
        });
        let solver_type = self.solver_type.as_deref().map(|name| match name {
            "taylor" => SolverType::Taylor,
            _ => SolverType::Midpoint,
        });
        let interpolated = if self.prediction == "data" { Interpolated::Data } else { Interpolated::Noise };
        Ok(SolverOptions {
            clip_denoised: self.thresholding.as_deref() == Some("static"),
            steps: Some(self.steps),
            time_grid: Some(time_grid),
            time_range: self.t_start.zip(self.t_end),
            noise_range,
            order: has_order.then_some(self.order),
            solver_type,
            interpolated: is_unipc.then_some(interpolated),
            lower_order_final: if self.method.as_deref() == Some("singlestep") { None } else { self.lower_order_final },
            denoise_to_zero: self.denoise_to_zero,
            dynamic_thresholding,
            ..SolverOptions::default()
        })
    }

    fn process(&self) -> DiffusionConfig {
        DiffusionConfig {
            diffusion_steps: self.diffusion_steps,
            noise_schedule: self.noise_schedule,
            variance: Variance::LearnedRange,
            ..DiffusionConfig::default()
        }
    }

    /// The tolerance of the states of a trajectory with the network.
    fn tolerance(&self) -> f64 {
        match (self.thresholding.as_deref(), self.algorithm.as_str()) {
            (Some("static"), _) => STATE_CLAMPED,
            (_, "deis_tab") => STATE_QUADRATURE,
            _ => STATE,
        }
    }
}

pub fn check(case: &Case) -> Outcome {
    let settings: Settings = serde_json::from_value(case.config.clone()).map_err(|error| format!("config: {error}"))?;
    let sampler = settings.sampler()?.parse().map_err(|error| format!("{error}"))?;
    let plan = SolverPlan::new(sampler, &settings.options()?, &settings.process())
        .map_err(|error| format!("{}: {error}", error.field()))?;
    grid(case, &plan)?;
    replay(case, &settings, &plan)?;
    sample(case, &settings, &plan)
}

/// The ends of the steps and their orders.
fn grid(case: &Case, plan: &SolverPlan) -> Outcome {
    let solver = plan.start();
    let rows = case.tensor("grid.t")?.size()[0] as usize;
    let levels = solver.levels().get(..rows).ok_or_else(|| format!("the solver has fewer than {rows} levels"))?;
    let num_timesteps = case.config["diffusion_steps"].as_f64().ok_or("config: no diffusion_steps")?;
    let column = |name: &str, value: &dyn Fn(&Level) -> f64| {
        let actual: Vec<f64> = levels.iter().map(value).collect();
        close(name, &Tensor::from_slice(&actual), case.tensor(name)?, GRID)
    };
    column("grid.t", &|level| (level.index + 1.0) / num_timesteps)?;
    column("grid.model_t", &|level| level.model_timestep)?;
    column("grid.alpha", &|level| level.alpha)?;
    column("grid.sigma", &|level| level.sigma)?;
    column("grid.lambda", &|level| level.lambda)?;
    if case.tensors.contains_key("grid.sigma_ve") {
        column("grid.sigma_ve", &Level::sigma_ve)?;
    }
    let counts_earlier = ["deis_tab", "ipndm"].contains(&plan.sampler().entry().name);
    let orders: Vec<i64> = (0..rows - 1).map(|index| solver.order(index) as i64 - i64::from(counts_earlier)).collect();
    close("step.order", &Tensor::from_slice(&orders), case.tensor("step.order")?, 0.0)?;
    let evaluations = solver.num_evaluations() as i64;
    let expected = case.config["network_calls"].as_i64();
    if expected == Some(evaluations) {
        Ok(())
    } else {
        Err(format!("{evaluations} evaluations, expected {expected:?}"))
    }
}

/// The states of a trajectory as they are in the file: Heun's are those of the variance-exploding process.
fn states(case: &Case, settings: &Settings, plan: &SolverPlan, trajectory: Trajectory) -> Result<Tensor, String> {
    let levels = plan.start().levels().to_vec();
    let states: Vec<Tensor> = trajectory
        .zip(&levels[1..])
        .map(|(step, level)| if settings.algorithm == "heun" { step.sample / level.alpha } else { step.sample })
        .collect();
    let (rows, expected) = (states.len() as i64, case.tensor("step.x")?.size()[0]);
    if rows == expected { Ok(Tensor::stack(&states, 0)) } else { Err(format!("{rows} steps, expected {expected}")) }
}

/// The arithmetic of the solver in float64, from the recorded outputs of the guided network.
fn replay(case: &Case, settings: &Settings, plan: &SolverPlan) -> Outcome {
    let epsilons = case.tensor("call.eps")?.to_kind(Kind::Double);
    let inputs = RefCell::new(Vec::new());
    let model = |x: &Tensor, timesteps: &Tensor| {
        let mut inputs = inputs.borrow_mut();
        inputs.push((x.copy(), timesteps.double_value(&[0])));
        epsilons.get(inputs.len() as i64 - 1)
    };
    let x_last = case.tensor("x_T")?.to_kind(Kind::Double);
    let mut noise = |_| unreachable!("the solver is deterministic");
    let trajectory = Trajectory::new(plan.start(), GuidedModel::unguided(&model), &x_last, &mut noise);
    let actual = states(case, settings, plan, trajectory)?;
    each_row("replay of step.x", &actual, case.tensor("step.x")?, REPLAY)?;
    let (x, timesteps): (Vec<Tensor>, Vec<f64>) = inputs.into_inner().into_iter().unzip();
    close("call.model_t", &Tensor::from_slice(&timesteps), case.tensor("call.model_t")?, GRID)?;
    each_row("replay of call.x", &Tensor::stack(&x, 0), case.tensor("call.x")?, REPLAY)
}

/// The whole trajectory with the network, as images are sampled.
fn sample(case: &Case, settings: &Settings, plan: &SolverPlan) -> Outcome {
    let GoldenNetwork { network, params } = GoldenNetwork::read(&case.config["model"], &case.salt)?;
    let kernels = kernels();
    let labels = case.tensors.get("y").map(|labels| labels.to_device(device()));
    let has_classes = !case.config["model"]["num_classes"].is_null();
    let model = |x: &Tensor, timesteps: &Tensor| {
        let labels = if has_classes { labels.as_ref() } else { None };
        network.forward(&kernels, &params, &Inputs { x, timesteps, labels, low_res: None }, None)
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
        classifier_gradient(&logits, labels, settings.classifier_scale, x, timesteps)
    };
    let guided = GuidedModel { predict: &model, gradient: if classifier.is_some() { Some(&gradient) } else { None } };
    let x_last = case.tensor("x_T")?.to_device(device());
    let mut noise = |_| unreachable!("the solver is deterministic");
    let trajectory = Trajectory::new(plan.start(), guided, &x_last, &mut noise);
    let states = states(case, settings, plan, trajectory)?;
    each_row("step.x", &states, case.tensor("step.x")?, settings.tolerance())?;
    let sample = states.get(states.size()[0] - 1);
    close("sample", &sample, case.tensor("sample")?, settings.tolerance())?;
    bytes(&sample, case)
}

/// The bytes of an image file, which may be off by one level where a value is near a boundary between two.
fn bytes(sample: &Tensor, case: &Case) -> Outcome {
    let expected = case.tensor("sample_u8")?.to_kind(Kind::Int);
    let on_cpu = |tensor: &Tensor| to_bytes(tensor).to_device(tch::Device::Cpu).to_kind(Kind::Int);
    close("bytes", &on_cpu(case.tensor("sample")?), &expected, 0.0)?;
    let levels = (case.tensor("sample")?.permute([0, 2, 3, 1]).to_kind(Kind::Double) + 1.0) * 127.5;
    let is_near = (&levels - levels.round()).abs().le(0.05);
    let difference = (on_cpu(sample) - &expected).abs();
    let allowed = is_near.to_kind(Kind::Int);
    let beyond = (difference - allowed).max().int64_value(&[]);
    if beyond <= 0 { Ok(()) } else { Err(format!("sample_u8: {beyond} levels beyond what rounding explains")) }
}

/// Compares row by row, so that large early states do not hide late ones.
fn each_row(what: &str, actual: &Tensor, expected: &Tensor, tolerance: f64) -> Outcome {
    if actual.size() != expected.size() {
        return Err(format!("{what}: shape {:?}, expected {:?}", actual.size(), expected.size()));
    }
    (0..actual.size()[0])
        .try_for_each(|row| close(&format!("{what}[{row}]"), &actual.get(row), &expected.get(row), tolerance))
}
