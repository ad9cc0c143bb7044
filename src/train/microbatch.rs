//! Makes the tensors of a pass from the samples that the loader has read.

use admiral_comm::FaultsConfig;
use admiral_data::Batch;
use tch::{Device, Tensor};

use crate::diffusion::{DrawnTimesteps, TimestepSampler, copy_to_device};
use crate::model::ModelConfig;
use crate::run_config::RunConfig;

use super::class_dropout::drop_classes;
use super::objective::Microbatch;

/// Makes the tensors of a pass. A sample's timestep and whether its class is dropped depend on its index, and on what the
/// timestep sampler has learned.
pub(super) fn make_microbatch(
    batch: &mut Batch,
    timestep_sampler: &TimestepSampler,
    config: &RunConfig,
    device: Device,
) -> Microbatch {
    spoil(batch, &config.faults);
    let drawn = timestep_sampler.draw(&batch.timestep_uniforms);
    trace_samples(batch, &drawn.timesteps);
    if let Some(null_class) = config.model.null_class() {
        let Batch { classes, indices, .. } = batch;
        drop_classes(classes, indices, config.run.seed, config.model.class_dropout, null_class);
    }
    to_device(batch, drawn, &config.model, config.model.num_classes.is_some(), device)
}

/// Damages the image of the sample that `faults.bad_sample` names.
fn spoil(batch: &mut Batch, faults: &FaultsConfig) {
    let Some(bad) = faults.bad_sample.filter(|_| faults.enabled) else { return };
    let length = batch.images.len() / batch.indices.len().max(1);
    if let Some(position) = batch.indices.iter().position(|&index| index == bad) {
        tracing::error!("faults: the image of sample {bad} is damaged");
        batch.images[position * length] = faults.bad_value.value() as f32;
    }
}

/// Logs a checksum of each sample's images, noise and timestep, if the target `admiral::samples` is enabled. With these
/// lines runs can be compared sample by sample.
fn trace_samples(batch: &Batch, timesteps: &[i64]) {
    if !tracing::enabled!(target: "admiral::samples", tracing::Level::TRACE) || batch.indices.is_empty() {
        return;
    }
    let length = batch.images.len() / batch.indices.len();
    for (i, (index, timestep)) in batch.indices.iter().zip(timesteps).enumerate() {
        let range = i * length..(i + 1) * length;
        let values = batch.images[range.clone()].iter().chain(&batch.noise[range]);
        let hash = values.fold(crc32c::crc32c(&timestep.to_le_bytes()), |hash, value| {
            crc32c::crc32c_append(hash, &value.to_le_bytes())
        });
        tracing::trace!(target: "admiral::samples", "sample {index} timestep {timestep} hash {hash:08x}");
    }
}

/// Copies a batch to the device, with the timesteps drawn for it.
pub(super) fn to_device(
    batch: &Batch,
    drawn: DrawnTimesteps,
    model: &ModelConfig,
    wants_classes: bool,
    device: Device,
) -> Microbatch {
    let shape = [batch.indices.len() as i64, model.image_channels, model.image_size, model.image_size];
    let tensor = |values: &[f32]| copy_to_device(&Tensor::from_slice(values).view(shape), device);
    Microbatch {
        images: tensor(&batch.images),
        noise: tensor(&batch.noise),
        timesteps: drawn.timesteps,
        weights: copy_to_device(&Tensor::from_slice(&drawn.weights), device),
        labels: wants_classes.then(|| copy_to_device(&Tensor::from_slice(&batch.classes), device)),
        indices: batch.indices.clone(),
    }
}
