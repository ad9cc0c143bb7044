//! Saves the training state to checkpoints and restores it: masters, averages, moments, counters, the loss scale and
//! the timestep sampler.

use std::sync::Arc;
use std::time::Instant;

use admiral_checkpoint::{
    Checkpoint, Content, ImagesRecord, Parameter, Role, Saver, TensorTarget, TrainingState, Writer,
};
use admiral_comm::Collective;
use admiral_data::OnChangedImages;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::diffusion::TimestepSamplerState;
use crate::model::ParamSpecs;

use super::error::TrainError;
use super::flat::{FlatMemory, ParamRange, Segment};
use super::loss_scale::LossScale;
use super::run_state::RunState;
use super::session::OpenedSession;

/// Returns the names and shapes of a network's parameters, as a manifest lists them.
#[must_use]
pub fn parameters(specs: &ParamSpecs) -> Vec<Parameter> {
    let shape = |shape: &[i64]| shape.iter().map(|&n| n as usize).collect();
    specs.iter().map(|spec| Parameter { name: spec.name.clone(), shape: shape(&spec.shape) }).collect()
}

/// Returns the roles that are saved of each parameter: the master, Adam's moments and the averages.
#[must_use]
pub fn roles(ema_rates: &[f64]) -> Vec<Role> {
    let emas = ema_rates.iter().map(|&rate| Role::Ema { rate });
    [Role::Master, Role::AdamMean, Role::AdamVariance].into_iter().chain(emas).collect()
}

/// Returns the flat buffer of a segment with this role, or `None` for an average that the run does not keep.
fn buffer<'a>(segment: &'a Segment, role: Role, ema_rates: &[f64]) -> Option<&'a Tensor> {
    match role {
        Role::Master => Some(&segment.master),
        Role::AdamMean => Some(&segment.mean),
        Role::AdamVariance => Some(&segment.variance),
        Role::Ema { rate } => segment.emas.get(ema_rates.iter().position(|own| *own == rate)?),
    }
}

/// Returns a tensor that shares the memory of `values`. It must not outlive them.
fn tensor_over(values: &mut [f32]) -> Tensor {
    // SAFETY: the memory of `values` is contiguous float32, and callers drop the tensor before the values.
    unsafe { Tensor::from_blob(values.as_mut_ptr().cast(), &[values.len() as i64], &[1], Kind::Float, Device::Cpu) }
}

/// Begins a save of the current state: copies this rank's share to host memory. Every rank calls it, when no other save
/// is in progress.
///
/// # Errors
/// When the copy fails, on this rank alone.
pub(super) fn begin_save(run: &RunState, saver: &mut Saver, now: Instant) -> Result<(), TrainError> {
    let content = content(run, saver.writer())?;
    copy_share(&run.trainer.memory, &run.config.optimizer.ema_rates, content, saver, now)
}

/// Begins a save of `memory`: copies this rank's share to host memory. `content` is the rest of the checkpoint.
///
/// # Errors
/// When the copy fails, on this rank alone.
pub fn copy_share(
    memory: &FlatMemory,
    ema_rates: &[f64],
    content: Content,
    saver: &mut Saver,
    now: Instant,
) -> Result<(), TrainError> {
    let mut ranges: Vec<Option<(&Segment, &ParamRange)>> = vec![None; memory.specs().iter().count()];
    for segment in memory.segments() {
        for range in &segment.layout.ranges {
            ranges[range.param] = Some((segment, range));
        }
    }
    saver.begin(content, now, |targets| {
        let find =
            |(role, parameter, values): (Role, usize, _)| -> Result<(&Tensor, &ParamRange, &mut [f32]), TrainError> {
                let (segment, range): (&Segment, &ParamRange) =
                    ranges[parameter].ok_or_else(|| missing_buffer(role, parameter))?;
                let buffer = buffer(segment, role, ema_rates).ok_or_else(|| missing_buffer(role, parameter))?;
                Ok((buffer, range, values))
            };
        copy_to_host(targets.into_iter().map(find).collect::<Result<_, _>>()?)
    })
}

fn missing_buffer(role: Role, parameter: usize) -> TrainError {
    TrainError::Bug(format!("there is no {role} of parameter {parameter} to save"))
}

/// The number of values that one thread copies at a time. Copies of this size make the C library write around the
/// caches.
const VALUES_PER_COPY: usize = 1 << 24;

/// Copies the values of parameters from flat buffers to host memory.
fn copy_to_host(copies: Vec<(&Tensor, &ParamRange, &mut [f32])>) -> Result<(), TrainError> {
    let _no_grad = tch::no_grad_guard();
    let mut host_copies: Vec<(&[f32], &mut [f32])> = Vec::new();
    for (buffer, range, values) in copies {
        if values.is_empty() {
            continue;
        }
        if buffer.device() == Device::Cpu && buffer.is_contiguous() && buffer.numel() >= range.offset + range.length {
            // SAFETY: a flat buffer is a contiguous vector of float32. Its length was just checked, and nothing writes
            // to it between two steps.
            let source =
                unsafe { std::slice::from_raw_parts(buffer.data_ptr().cast::<f32>().add(range.offset), range.length) };
            host_copies.extend(source.chunks(VALUES_PER_COPY).zip(values.chunks_mut(VALUES_PER_COPY)));
        } else {
            tensor_over(values).f_copy_(&buffer.f_narrow(0, range.offset as i64, range.length as i64)?)?;
        }
    }
    // There are many small copies. libtorch's threads would synchronize after each of them.
    host_copies.into_par_iter().for_each(|(source, target)| target.copy_from_slice(source));
    Ok(())
}

/// Returns the content of a checkpoint other than its tensors.
fn content(run: &RunState, writer: &Writer) -> Result<Content, TrainError> {
    let counters = &run.trainer.counters;
    Ok(Content {
        writer: writer.clone(),
        task: run.config.task.name().to_owned(),
        configuration: serde_json::to_value(&run.config).map_err(|error| TrainError::Bug(error.to_string()))?,
        training: TrainingState {
            step: counters.step,
            next_sample_index: run.next_sample(),
            optimizer_steps: counters.optimizer_step,
            lg_loss_scale: match counters.loss_scale {
                LossScale::Off => None,
                LossScale::Dynamic { lg, .. } => Some(lg),
            },
            timestep_sampler: Some(
                serde_json::to_value(run.timestep_sampler.state())
                    .map_err(|error| TrainError::Bug(error.to_string()))?,
            ),
            images: Some(run.images.clone()),
        },
        parameters: Arc::new(parameters(run.trainer.memory.specs())),
    })
}

/// Reads every role of a checkpoint into the flat buffers. It needs host memory for one role at a time. Every rank
/// calls it.
///
/// # Errors
/// When the checkpoint cannot be read, with the same error on every rank. The values of the buffers are then undefined.
pub fn read_roles(
    memory: &FlatMemory,
    ema_rates: &[f64],
    checkpoint: &Checkpoint,
    collective: &dyn Collective,
) -> Result<(), TrainError> {
    let parameters = parameters(memory.specs());
    for role in roles(ema_rates) {
        let mut host: Vec<Vec<f32>> =
            memory.segments().iter().map(|segment| vec![0.0; segment.layout.length]).collect();
        let mut targets = Vec::new();
        for (segment, values) in memory.segments().iter().zip(&mut host) {
            let mut rest = values.as_mut_slice();
            let mut position = 0;
            for range in &segment.layout.ranges {
                let (_, after) = std::mem::take(&mut rest).split_at_mut(range.offset - position);
                let (values, after) = after.split_at_mut(range.length);
                position = range.offset + range.length;
                rest = after;
                let parameter = &parameters[range.param];
                targets.push(TensorTarget { role, name: &parameter.name, shape: &parameter.shape, values });
            }
        }
        checkpoint.read(collective, &mut targets)?;
        drop(targets);
        let _no_grad = tch::no_grad_guard();
        for (segment, values) in memory.segments().iter().zip(&mut host) {
            if let Some(buffer) = buffer(segment, role, ema_rates) {
                buffer.shallow_clone().copy_(&tensor_over(values));
            }
        }
    }
    Ok(())
}

/// Loads a checkpoint that [`check_same_run`] accepts. Training then continues after the checkpoint's step. Every rank
/// calls it.
///
/// # Errors
/// When the checkpoint cannot be read, with the same error on every rank. The state is then undefined until another
/// checkpoint is restored.
pub fn restore(
    session: &mut OpenedSession,
    checkpoint: &Checkpoint,
    collective: &dyn Collective,
) -> Result<(), TrainError> {
    let run = &mut session.state;
    let manifest = checkpoint.manifest();
    let memory = &run.trainer.memory;
    read_roles(memory, &run.config.optimizer.ema_rates, checkpoint, collective)?;
    memory.refresh_model();

    let state = &manifest.training;
    if let Some(sampler) = &state.timestep_sampler {
        let refuse = |reason: String| {
            TrainError::Refused(format!("{}: the timestep sampler's state: {reason}", checkpoint.url()))
        };
        let sampler: TimestepSamplerState =
            serde_json::from_value(sampler.clone()).map_err(|error| refuse(error.to_string()))?;
        run.timestep_sampler.restore(sampler).map_err(|error| refuse(error.to_string()))?;
    }
    let counters = &mut run.trainer.counters;
    counters.step = state.step;
    counters.optimizer_step = state.optimizer_steps;
    if let (LossScale::Dynamic { lg, .. }, Some(saved)) = (&mut counters.loss_scale, state.lg_loss_scale) {
        *lg = saved;
    }
    Ok(())
}

/// Checks that a run can continue from a checkpoint. Compares the fields that cannot change within a run, because its
/// state or the order of its samples depends on them.
///
/// # Errors
/// When the checkpoint is of another network, or was trained with another task, global batch, averages or seed, or on other
/// images.
pub fn check_same_run(run: &RunState, checkpoint: &Checkpoint) -> Result<(), TrainError> {
    let (manifest, url) = (checkpoint.manifest(), checkpoint.url());
    let shapes: Vec<(&str, Vec<i64>)> = manifest
        .parameters()
        .iter()
        .map(|parameter| (parameter.name.as_str(), parameter.shape.iter().map(|&n| n as i64).collect()))
        .collect();
    let named = shapes.iter().map(|(name, shape)| (*name, shape.as_slice()));
    run.trainer.memory.specs().check(named).map_err(|error| {
        TrainError::Refused(format!("{url} is a checkpoint of another model than this configuration's: {error}"))
    })?;
    let saved = |path: &str| manifest.configuration.pointer(path).cloned().unwrap_or_default();
    let config = &run.config;
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
    check_same_training_images(run, manifest.training.images.as_ref(), &url)?;
    if Some(manifest.training.next_sample_index) != manifest.training.step.checked_mul(config.training.global_batch) {
        return Err(TrainError::Refused(format!("{url}: its number of samples seen does not fit its step")));
    }
    Ok(())
}

/// Checks that the images are those of the checkpoint: otherwise the next samples are not those that a run without an
/// interruption would have.
fn check_same_training_images(run: &RunState, saved: Option<&ImagesRecord>, url: &str) -> Result<(), TrainError> {
    let Some(saved) = saved.filter(|saved| **saved != run.images) else { return Ok(()) };
    let what = if saved.num_images == run.images.num_images {
        format!("{} images, as now, with other names, classes or order", saved.num_images)
    } else {
        format!("{} images, and there are {} now", saved.num_images, run.images.num_images)
    };
    match run.config.data.on_changed_images {
        OnChangedImages::Stop => Err(TrainError::Refused(format!(
            "{url} was trained on {what}, so that the order of samples changes; give the run its images back, set \
             data.on_changed_images: accept to go on with these, or start a new run in another run.folder"
        ))),
        OnChangedImages::Accept => {
            tracing::warn!("{url} was trained on {what}; the run goes on with the images that are there now");
            Ok(())
        }
    }
}
