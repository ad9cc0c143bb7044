//! Training state to and from checkpoints: masters, averages, moments, counters, the loss scale, the timestep sampler.

use tch::{Device, Kind, Tensor};

use crate::checkpoint::{
    Checkpoint, Content, Manifest, Parameter, Role, Store, TensorTarget, TensorView, TrainingState,
};
use crate::collective::Collective;
use crate::diffusion::TimestepSamplerState;
use crate::model::ParamSpecs;

use super::TrainError;
use super::flat::{FlatMemory, Segment};
use super::loss_scale::LossScale;
use super::session::Session;

/// A network's parameters as a manifest lists them.
#[must_use]
pub fn parameters(specs: &ParamSpecs) -> Vec<Parameter> {
    let shape = |shape: &[i64]| shape.iter().map(|&n| n as usize).collect();
    specs.iter().map(|spec| Parameter { name: spec.name.clone(), shape: shape(&spec.shape) }).collect()
}

/// The flat buffers of a segment with their roles.
fn buffers<'a>(segment: &'a Segment, ema_rates: &'a [f64]) -> impl Iterator<Item = (Role, &'a Tensor)> {
    let emas = ema_rates.iter().zip(&segment.emas).map(|(&rate, ema)| (Role::Ema { rate }, ema));
    [(Role::Master, &segment.master), (Role::AdamMean, &segment.mean), (Role::AdamVariance, &segment.variance)]
        .into_iter()
        .chain(emas)
}

/// A role, the segment it belongs to, and its flat values in host memory.
type HostBuffer = (Role, usize, Vec<f32>);

fn to_host(memory: &FlatMemory, ema_rates: &[f64]) -> Result<Vec<HostBuffer>, TrainError> {
    let segments = memory.segments().iter().enumerate();
    segments
        .flat_map(|(index, segment)| buffers(segment, ema_rates).map(move |(role, tensor)| (role, index, tensor)))
        .map(|(role, index, tensor)| {
            let mut values = vec![0.0f32; tensor.numel()];
            tensor.to_device(Device::Cpu).f_copy_data(&mut values, tensor.numel())?;
            Ok((role, index, values))
        })
        .collect()
}

/// Publishes a checkpoint of the session as it stands. Every rank calls it.
///
/// # Errors
/// The same on every rank: where the store cannot be written, or the step is there already.
pub fn save(session: &Session, store: &Store, collective: &dyn Collective) -> Result<Manifest, TrainError> {
    let memory = &session.trainer.memory;
    let parameters = parameters(memory.specs());
    let host = to_host(memory, &session.config.optimizer.ema_rates)?;
    let mut views = Vec::new();
    for (role, segment, values) in &host {
        for place in &memory.segments()[*segment].layout.places {
            let parameter = &parameters[place.param];
            views.push(TensorView {
                role: *role,
                name: &parameter.name,
                shape: &parameter.shape,
                values: &values[place.offset..place.offset + place.length],
            });
        }
    }
    let progress = &session.trainer.progress;
    let content = Content {
        task: session.config.task.name().to_owned(),
        configuration: serde_json::to_value(&session.config).map_err(|error| TrainError::Bug(error.to_string()))?,
        training: TrainingState {
            step: progress.step,
            next_sample_index: session.next_sample(),
            optimizer_steps: progress.optimizer_step,
            lg_loss_scale: match progress.loss_scale {
                LossScale::Off => None,
                LossScale::Dynamic { lg, .. } => Some(lg),
            },
            timestep_sampler: Some(
                serde_json::to_value(session.timestep_sampler.state())
                    .map_err(|error| TrainError::Bug(error.to_string()))?,
            ),
        },
        parameters: parameters.clone(),
    };
    Ok(crate::checkpoint::save(store, collective, &content, &views)?)
}

/// Loads a checkpoint that [`check_same_run`] accepts into the session, which then goes on after the checkpoint's
/// step. Every rank calls it.
///
/// # Errors
/// The same on every rank, where the checkpoint cannot be read. The session is unusable after an error.
pub fn restore(session: &mut Session, checkpoint: &Checkpoint, collective: &dyn Collective) -> Result<(), TrainError> {
    let manifest = checkpoint.manifest();
    let memory = &session.trainer.memory;
    let parameters = parameters(memory.specs());
    let mut host: Vec<HostBuffer> = Vec::new();
    for (index, segment) in memory.segments().iter().enumerate() {
        for (role, _) in buffers(segment, &session.config.optimizer.ema_rates) {
            host.push((role, index, vec![0.0; segment.layout.length]));
        }
    }
    let mut targets = Vec::new();
    for (role, segment, values) in &mut host {
        let mut rest = values.as_mut_slice();
        let mut passed = 0;
        for place in &memory.segments()[*segment].layout.places {
            let (_, after) = std::mem::take(&mut rest).split_at_mut(place.offset - passed);
            let (values, after) = after.split_at_mut(place.length);
            passed = place.offset + place.length;
            rest = after;
            let parameter = &parameters[place.param];
            targets.push(TensorTarget { role: *role, name: &parameter.name, shape: &parameter.shape, values });
        }
    }
    checkpoint.read(collective, &mut targets)?;
    drop(targets);
    let _no_grad = tch::no_grad_guard();
    let mut loaded = host.iter();
    for segment in memory.segments() {
        for (_, buffer) in buffers(segment, &session.config.optimizer.ema_rates) {
            if let Some((_, _, values)) = loaded.next() {
                buffer.shallow_clone().copy_(&Tensor::from_slice(values));
            }
        }
    }
    memory.refresh_model();

    let state = &manifest.training;
    if let Some(sampler) = &state.timestep_sampler {
        let refuse = |reason: String| {
            TrainError::Refused(format!("{}: the timestep sampler's state: {reason}", checkpoint.url()))
        };
        let sampler: TimestepSamplerState =
            serde_json::from_value(sampler.clone()).map_err(|error| refuse(error.to_string()))?;
        session.timestep_sampler.restore(sampler).map_err(|error| refuse(error.to_string()))?;
    }
    let progress = &mut session.trainer.progress;
    progress.step = state.step;
    progress.optimizer_step = state.optimizer_steps;
    if let (LossScale::Dynamic { lg, .. }, Some(saved)) = (&mut progress.loss_scale, state.lg_loss_scale) {
        *lg = saved;
    }
    Ok(())
}

/// Whether the session can go on from a checkpoint. What is compared cannot change in the middle of a run without its
/// samples or its state losing their meaning.
///
/// # Errors
/// Where the checkpoint is of another network, or was trained with another task, batch, averages or seed.
pub fn check_same_run(session: &Session, checkpoint: &Checkpoint) -> Result<(), TrainError> {
    let (manifest, url) = (checkpoint.manifest(), checkpoint.url());
    let shapes: Vec<(&str, Vec<i64>)> = manifest
        .parameters()
        .iter()
        .map(|parameter| (parameter.name.as_str(), parameter.shape.iter().map(|&n| n as i64).collect()))
        .collect();
    let named = shapes.iter().map(|(name, shape)| (*name, shape.as_slice()));
    session.trainer.memory.specs().check(named).map_err(|error| {
        TrainError::Refused(format!("{url} is a checkpoint of another model than this configuration's: {error}"))
    })?;
    let saved = |path: &str| manifest.configuration.pointer(path).cloned().unwrap_or_default();
    let config = &session.config;
    let now = serde_json::json!({
        "/task": config.task,
        "/training/global_batch": config.training.global_batch,
        "/optimizer/ema_rates": config.optimizer.ema_rates,
        "/run/seed": config.run.seed,
    });
    for (path, value) in now.as_object().into_iter().flatten() {
        let before = saved(path);
        if before != *value {
            let field = path.trim_start_matches('/').replace('/', ".");
            return Err(TrainError::Refused(format!(
                "{url} was trained with {field} = {before}, this configuration has {value}; a run cannot change it: \
                 set it back, or start a new run in another run.folder"
            )));
        }
    }
    if manifest.training.next_sample_index != manifest.training.step * config.training.global_batch {
        return Err(TrainError::Refused(format!("{url}: its place in the data does not fit its step")));
    }
    Ok(())
}

/// Copies a network's values out of named host tensors, as float32 on `device`.
///
/// # Errors
/// When they are not the network's.
pub fn params_from_named(
    specs: &ParamSpecs,
    named: &std::collections::BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    device: Device,
) -> Result<crate::model::Params, TrainError> {
    let shapes: Vec<(&str, Vec<i64>)> =
        named.iter().map(|(name, (shape, _))| (name.as_str(), shape.iter().map(|&n| n as i64).collect())).collect();
    specs.check(shapes.iter().map(|(name, shape)| (*name, shape.as_slice())))?;
    let tensors = specs.iter().filter_map(|spec| {
        let (_, values) = named.get(&spec.name)?;
        Some(Tensor::from_slice(values).to_kind(Kind::Float).view(spec.shape.as_slice()).to_device(device))
    });
    Ok(crate::model::Params::new(tensors.collect()))
}
