//! Kind `train`: optimizer steps of the trainer.

use admiral::model::Network;
use admiral::run_config::OptimizerConfig;
use admiral::train::{FlatMemory, GradientSums, LossScale, Microbatch, Objective, Trainer};
use admiral_comm::{PhaseTracker, Single};
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::diffusion::ProcessFlags;
use super::network::NetworkConfig;
use super::support::{
    Case, GRADIENT, HALF, HALF_FINGERPRINT, Outcome, RUN_FINGERPRINT, close, device, fingerprint, gaussian, ints,
    kernels, parameter, signed,
};

#[derive(Deserialize)]
struct Run {
    batch_size: i64,
    microbatch: i64,
    steps: usize,
    lr: f64,
    weight_decay: f64,
    lr_anneal_steps: u64,
    ema_rates: Vec<f64>,
    initial_lg_loss_scale: f64,
    fp16_scale_growth: f64,
    image_size: i64,
}

const TRACES: [&str; 8] = ["loss", "mse", "vb", "grad_norm", "param_norm", "lg_loss_scale", "lr", "took_step"];

pub fn check(case: &Case) -> Outcome {
    let run: Run = serde_json::from_value(case.config.clone()).map_err(|error| format!("config: {error}"))?;
    let network_config = NetworkConfig::read(&case.config)?;
    let half = network_config.use_fp16;
    let mut trainer = build(case, &run, &network_config)?;
    let mut traces = vec![Vec::new(); TRACES.len()];
    for step in 0..run.steps {
        let report = train_step(case, &run, &network_config, &mut trainer, step)?;
        let mean = |name| report.samples.mean(name).unwrap_or(f64::NAN);
        let values = [
            mean("loss"),
            mean("mse"),
            mean("vb"),
            report.gradient_norm,
            report.parameter_norm,
            report.lg_loss_scale,
            report.learning_rate,
            f64::from(u8::from(report.took_step)),
        ];
        traces.iter_mut().zip(values).for_each(|(trace, value)| trace.push(value));
    }
    for (name, values) in TRACES.iter().zip(&traces) {
        let Some(expected) = case.tensors.get(&format!("trace.{name}")) else { continue };
        // In float32, the reference reports an initial loss scale that it does not use.
        if *name == "lg_loss_scale" && !half {
            continue;
        }
        // The steps at which the loss scale decreases are exact. Learning rate and loss scale are simple arithmetic.
        let tolerance = match *name {
            "took_step" => 0.0,
            "lg_loss_scale" | "lr" => 1e-12,
            _ if half => HALF,
            _ => GRADIENT,
        };
        close(&format!("trace.{name}"), &Tensor::from_slice(values), expected, tolerance)?;
    }
    let tolerance = if half { HALF_FINGERPRINT } else { RUN_FINGERPRINT };
    let names: Vec<String> = trainer.memory.specs().iter().map(|spec| spec.name.clone()).collect();
    let print = |params: &admiral::model::Params| {
        fingerprint(&case.salt, names.iter().map(String::as_str).zip(params.tensors()))
    };
    close("final", &print(&trainer.memory.master_params()), case.tensor("final.fingerprint")?, tolerance)?;
    (0..run.ema_rates.len()).try_for_each(|ema| {
        let name = format!("ema.{ema}.fingerprint");
        close(&name, &print(&trainer.memory.ema_params(ema)), case.tensor(&name)?, tolerance)
    })
}

fn build(case: &Case, run: &Run, network: &NetworkConfig) -> Result<Trainer, String> {
    let half = network.use_fp16;
    let (network, specs) = Network::build(&network.spec()?);
    let values: Vec<Vec<f32>> = specs
        .iter()
        .map(|spec| Vec::try_from(parameter(&case.salt, &spec.name, &spec.shape).flatten(0, -1)))
        .collect::<Result<_, tch::TchError>>()
        .map_err(|error| error.to_string())?;
    let kind = if half { Kind::Half } else { Kind::Float };
    let memory = FlatMemory::allocate(specs, kind, run.ema_rates.len(), device()).map_err(|e| e.to_string())?;
    memory.set_master(|param, out| out.copy_from_slice(&values[param]));
    let objective = Objective::Diffusion(ProcessFlags::read(&case.config)?.build()?);
    let optimizer = OptimizerConfig {
        learning_rate: run.lr,
        weight_decay: run.weight_decay,
        lr_anneal_steps: run.lr_anneal_steps,
        ema_rates: run.ema_rates.clone(),
        ..OptimizerConfig::default()
    };
    let scale = if half {
        LossScale::Dynamic { lg: run.initial_lg_loss_scale, growth: run.fp16_scale_growth, floor: 0.0 }
    } else {
        LossScale::Off
    };
    let (sums, phases) = (GradientSums::AfterBackward, PhaseTracker::private());
    Trainer::new(network, memory, objective, optimizer, scale, 0, sums, kernels(), phases)
        .map_err(|error| error.to_string())
}

fn train_step(
    case: &Case,
    run: &Run,
    network: &NetworkConfig,
    trainer: &mut Trainer,
    step: usize,
) -> Result<admiral::train::StepReport, String> {
    let name = case.name.strip_prefix("train_").unwrap_or(&case.name);
    let shape = [run.batch_size, 3, run.image_size, run.image_size];
    let count = run.batch_size as usize;
    let images = signed(&case.salt, &format!("{name}/x0/{step}"), &shape, 1.0, 0.0);
    let noise = gaussian(&case.salt, &format!("{name}/noise/{step}"), &shape);
    let timesteps = ints(&case.salt, &format!("{name}/t/{step}"), count, 1000);
    let labels = network.num_classes.map(|classes| ints(&case.salt, &format!("{name}/y/{step}"), count, classes));
    let mut next = |pass: usize| {
        let part = |tensor: &Tensor| {
            let start = pass as i64 * run.microbatch;
            tensor.narrow(0, start, run.microbatch.min(run.batch_size - start)).to_device(device())
        };
        let timesteps = Vec::<i64>::try_from(part(&timesteps))?;
        Ok(Microbatch {
            indices: (0..timesteps.len() as u64).collect(),
            images: part(&images),
            noise: part(&noise),
            weights: Tensor::ones([timesteps.len() as i64], (Kind::Float, device())),
            timesteps,
            labels: labels.as_ref().map(part),
        })
    };
    let passes = (run.batch_size + run.microbatch - 1) / run.microbatch;
    trainer.step(passes as usize, run.batch_size as u64, &mut next, &Single).map_err(|error| error.to_string())
}
