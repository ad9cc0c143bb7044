//! The request to `admiral-plan` for a configuration.

use admiral_comm::buckets::{BYTES_PER_VALUE, default_bucket_bytes};
use admiral_config::Invalid;
use admiral_contract::BatchDivision;
use admiral_plan::{GpuKind, LayerMemory, Norms, Request, Weights, Work, World, microbatch_option};
use tch::Device;

use crate::model::{ExecutionMode, Network, Task};
use crate::ops;

use super::config::RunConfig;
use super::sections::{FusedKernels, PrecisionMode};

/// The numbers of GPUs in the scaling table.
const WORLDS: [u64; 7] = [8, 16, 32, 64, 128, 256, 512];

/// The number of float32 maps of an image's size that the loss keeps, including the samples. A network keeps many more.
const LOSS_MAPS: u64 = 24;

/// Returns the request for a plan of a run on `world` GPUs of a kind.
///
/// # Errors
/// When the batch cannot be divided over the GPUs, or the configuration makes no valid network, with every mistake.
pub fn plan_request(
    name: &str,
    config: &RunConfig,
    kind: GpuKind,
    world: u64,
    mean_image_bytes: u64,
) -> Result<Request, Vec<Invalid>> {
    let batch = config.divide_batch(world).map_err(|mut mistake| {
        if let Some(batch) = with_smaller_microbatch(config, world) {
            mistake.message += &format!("; for {world} give {}", microbatch_option(&batch));
        }
        vec![mistake]
    })?;
    let (network, specs) = Network::build(&config.network_spec()?);
    let half = config.precision.mode != PrecisionMode::Fp32;
    let torso: usize = specs.iter().filter(|spec| spec.torso).map(crate::model::ParamSpec::num_elements).sum();
    let weights = Weights {
        parameters: specs.num_elements() as u64,
        torso: torso as u64,
        half,
        num_emas: config.optimizer.ema_rates.len() as u64,
        float_sums: world > 1,
    };
    let training = &config.training;
    let retention = config.checkpoint.retention();
    // A CPU always uses the fused kernels, unless they are off.
    let only_fused = kind == GpuKind::Cpu && config.run.fused_kernels == FusedKernels::Auto;
    let variants = if only_fused { &[Norms::Fused][..] } else { &[Norms::Fused, Norms::Composed] };
    let layers = variants.iter().map(|&norms| (norms, layers(config, &network, half, norms, kind)));
    Ok(Request {
        name: name.to_owned(),
        work: Work {
            forward_flops: network.forward_flops(),
            weights,
            wire_bytes: weights.parameters * BYTES_PER_VALUE as u64,
            bucket_bytes: training.bucket_bytes.unwrap_or_else(|| {
                default_bucket_bytes(usize::try_from(weights.parameters).unwrap_or(usize::MAX)) as u64
            }),
            recomputes: config.model.use_checkpoint,
            overlaps: training.overlap_all_reduce,
        },
        layers: layers.collect(),
        norms: norms(config, kind),
        batch,
        worlds: WORLDS.map(|gpus| in_world(config, gpus)).into(),
        steps: training.steps,
        mean_image_bytes,
        checkpoint_bytes: config.checkpoint_bytes(weights.parameters),
        num_saves: training.steps.div_ceil(training.save_interval),
        most_checkpoints: retention.most_at_once(training.steps, training.save_interval),
    })
}

/// Returns which kernels normalize in the torso on GPUs of this kind.
fn norms(config: &RunConfig, kind: GpuKind) -> Norms {
    let device = if kind == GpuKind::Cpu { Device::Cpu } else { Device::Cuda(0) };
    let torso = config.precision.mode.kind();
    if config.run.fused_kernels == FusedKernels::Auto && ops::group_norm_is_fused(torso, device) {
        Norms::Fused
    } else {
        Norms::Composed
    }
}

/// Returns the division of the batch with the largest microbatch, up to the configured one, that divides it evenly.
fn with_smaller_microbatch(config: &RunConfig, world: u64) -> Option<BatchDivision> {
    BatchDivision::with_largest_microbatch(config.training.microbatch, config.training.global_batch, world)
}

/// Returns how the batch is divided over `gpus` GPUs, with a smaller microbatch if necessary.
fn in_world(config: &RunConfig, gpus: u64) -> World {
    if let Ok(batch) = config.divide_batch(gpus) {
        return World { gpus, batch: Ok(batch), other_microbatch: false };
    }
    let smaller = with_smaller_microbatch(config, gpus);
    let refused = || format!("cannot share {} images", config.training.global_batch);
    World { gpus, batch: smaller.ok_or_else(refused), other_microbatch: smaller.is_some() }
}

/// Returns the memory that an image takes in each layer of the network, and in the loss.
fn layers(config: &RunConfig, network: &Network, half: bool, norms: Norms, kind: GpuKind) -> Vec<LayerMemory> {
    let mut layers = network.memory(ExecutionMode { half, norms, on_gpu: kind != GpuKind::Cpu });
    let model = &config.model;
    let map = 4 * (model.image_channels * model.image_size * model.image_size) as u64;
    let num_maps = if config.task == Task::Classifier { 3 } else { LOSS_MAPS };
    layers.push(LayerMemory {
        name: "loss".into(),
        input_bytes: 0,
        keeps_input: false,
        inner_bytes: num_maps * map,
        backward_bytes: 0,
        can_checkpoint: false,
    });
    layers
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_request_has_the_values_of_the_configuration() {
        let mut config = RunConfig::default();
        config.training.steps = 25;
        config.training.save_interval = 10;
        config.checkpoint.keep_last = Some(1);
        let request = plan_request("own", &config, GpuKind::V100, 16, 1000).unwrap();
        assert_eq!((request.num_saves, request.most_checkpoints), (3, 2));
        assert_eq!(request.checkpoint_bytes, config.facts().unwrap().checkpoint_bytes);
        assert_eq!(request.batch, BatchDivision { world_size: 16, global_batch: 256, microbatch: 16, accumulation: 1 });
        let refused: Vec<u64> =
            request.worlds.iter().filter(|world| world.batch.is_err()).map(|world| world.gpus).collect();
        assert_eq!(refused, [512]);
        assert!(request.worlds.iter().all(|world| !world.other_microbatch));
    }

    #[test]
    fn the_largest_microbatch_that_divides_the_batch_is_proposed() {
        let mut config = RunConfig::default();
        (config.training.global_batch, config.training.microbatch) = (2048, 96);
        let message = plan_request("own", &config, GpuKind::V100, 8, 1000).unwrap_err().remove(0).message;
        assert!(message.ends_with("for 8 give --set training.microbatch=64"), "{message}");
        let message = plan_request("own", &config, GpuKind::V100, 24, 1000).unwrap_err().remove(0).message;
        assert!(!message.contains("--set"), "{message}");
        let request = plan_request("own", &config, GpuKind::V100, 64, 1000).unwrap();
        let others = request.worlds.iter().filter(|world| world.other_microbatch);
        let others: Vec<Option<BatchDivision>> = others.map(|world| world.batch.clone().ok()).collect();
        let batch =
            |world, accumulation| BatchDivision { world_size: world, global_batch: 2048, microbatch: 64, accumulation };
        assert_eq!(others, [Some(batch(8, 4)), Some(batch(16, 2))]);
    }
}
