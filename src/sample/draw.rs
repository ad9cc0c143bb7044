//! Drawing images. Sample number i starts from noise that is a function of (seed, i), and gets its steps' noise from
//! the same sequence: neither batches nor ranks change what it becomes.

use tch::{Device, Kind, Tensor};

use admiral_comm::{Collective, CollectiveError};
use crate::diffusion::{Denoising, GaussianDiffusion, Method, SampleOptions, to_bytes};
use crate::model::{Inputs, Network, Params};
use admiral_random::{Philox, Stream};

/// What is drawn.
#[derive(Debug)]
pub struct Request {
    /// Height and width in pixels.
    pub size: i64,
    /// Channels of an image.
    pub channels: i64,
    /// The seed of all noise.
    pub seed: u64,
    /// The class of each sample, for class-conditional networks; its length is the number of samples.
    pub labels: Option<Vec<i64>>,
    /// The number of samples.
    pub count: u64,
    /// Small images for super-resolution, one a sample, `[count, channels, small, small]` in [-1, 1].
    pub low_res: Option<Tensor>,
    /// Samples that are drawn together.
    pub batch_size: u64,
    /// The sampler.
    pub method: Method,
    /// Clamps predicted images to [-1, 1].
    pub clip_denoised: bool,
}

/// Draws the samples with numbers `first..end` of a request: their pixels, `[end - first, height, width, channels]`.
#[must_use]
pub fn draw(
    network: &Network,
    params: &Params,
    diffusion: &GaussianDiffusion,
    request: &Request,
    first: u64,
    end: u64,
    device: Device,
) -> Vec<u8> {
    let _no_grad = tch::no_grad_guard();
    let mut pixels = Vec::new();
    let mut start = first;
    while start < end {
        let count = request.batch_size.min(end - start);
        pixels.extend(draw_batch(network, params, diffusion, request, start, count, device));
        start += count;
    }
    pixels
}

fn draw_batch(
    network: &Network,
    params: &Params,
    diffusion: &GaussianDiffusion,
    request: &Request,
    start: u64,
    count: u64,
    device: Device,
) -> Vec<u8> {
    let shape = [count as i64, request.channels, request.size, request.size];
    let length = (request.channels * request.size * request.size) as usize;
    let mut streams: Vec<Philox> =
        (start..start + count).map(|number| Philox::new(request.seed, Stream::Sampling, number)).collect();
    let mut noise = |_step: usize| {
        let mut values = vec![0.0f32; length * streams.len()];
        for (stream, values) in streams.iter_mut().zip(values.chunks_exact_mut(length)) {
            stream.fill_normal(values);
        }
        Tensor::from_slice(&values).view(shape).to_device(device)
    };
    let part = start as usize..(start + count) as usize;
    let labels = request.labels.as_ref().map(|labels| Tensor::from_slice(&labels[part]).to_device(device));
    let low_res = request.low_res.as_ref().map(|images| images.narrow(0, start as i64, count as i64).to_device(device));
    let model = |x: &Tensor, timesteps: &Tensor| {
        network.forward(params, &Inputs { x, timesteps, labels: labels.as_ref(), low_res: low_res.as_ref() }, None)
    };
    let options = SampleOptions {
        method: request.method,
        denoising: Denoising { clip_denoised: request.clip_denoised, ..Denoising::default() },
        ..SampleOptions::default()
    };
    let x_last = noise(0);
    let images = diffusion.sample(&model, &x_last, &mut noise, options).finish();
    let bytes = to_bytes(&images).to_device(Device::Cpu).to_kind(Kind::Uint8);
    let mut out = vec![0u8; bytes.numel()];
    bytes.copy_data(&mut out, bytes.numel());
    out
}

/// Draws a request on all ranks, each a part; rank 0 gets the pixels of all samples in order, the others none.
/// Every rank calls it.
///
/// # Errors
/// When ranks cannot be reached.
pub fn draw_on_all_ranks(
    network: &Network,
    params: &Params,
    diffusion: &GaussianDiffusion,
    request: &Request,
    device: Device,
    collective: &dyn Collective,
) -> Result<Option<Vec<u8>>, CollectiveError> {
    let (rank, world) = (collective.rank() as u64, collective.world_size() as u64);
    let (first, end) = (request.count * rank / world, request.count * (rank + 1) / world);
    let own = draw(network, params, diffusion, request, first, end, device);
    Ok(collective.gather(0, &own)?.map(|parts| parts.concat()))
}

/// The labels of a grid with one class a row, and its number of columns: `per_class` images of each of the first
/// `max_classes` classes, or, without classes, a square of `per_class` x `per_class` images.
#[must_use]
pub fn grid_labels(num_classes: Option<i64>, per_class: u64, max_classes: u64) -> (Option<Vec<i64>>, u64) {
    match num_classes {
        None => (None, per_class * per_class),
        Some(classes) => {
            let rows = classes.min(max_classes as i64);
            let labels: Vec<i64> = (0..rows).flat_map(|class| vec![class; per_class as usize]).collect();
            let count = labels.len() as u64;
            (Some(labels), count)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::diffusion::DiffusionConfig;
    use crate::model::{ModelConfig, Task, initialize};

    #[test]
    fn batches_do_not_change_samples() {
        let config = ModelConfig {
            image_size: 8,
            image_channels: 1,
            num_classes: Some(3),
            num_channels: 32,
            num_res_blocks: 1,
            channel_mult: Some(vec![1.0]),
            attention_resolutions: vec![],
            num_head_channels: Some(32),
            ..ModelConfig::default()
        };
        let (network, specs) = Network::build(&config.plan(Task::Diffusion, true).unwrap());
        let tensors = specs.iter().enumerate().map(|(place, spec)| {
            let mut values = vec![0.0; spec.num_elements()];
            initialize(spec, place, 1, &mut values);
            // What starts at zero is filled, so that the network matters.
            values.iter_mut().filter(|value| **value == 0.0).for_each(|value| *value = 0.02);
            Tensor::from_slice(&values).view(spec.shape.as_slice())
        });
        let params = Params::new(tensors.collect());
        let process = DiffusionConfig { timestep_respacing: "3".into(), ..DiffusionConfig::default() };
        let diffusion = GaussianDiffusion::new(&process).unwrap();
        let (labels, count) = grid_labels(Some(3), 2, 10);
        let mut request = Request {
            size: 8,
            channels: 1,
            seed: 4,
            labels,
            count,
            low_res: None,
            batch_size: 6,
            method: Method::Ddpm,
            clip_denoised: true,
        };
        let together = draw(&network, &params, &diffusion, &request, 0, count, Device::Cpu);
        assert_eq!(together.len(), 6 * 64);
        request.batch_size = 4;
        let mut apart = draw(&network, &params, &diffusion, &request, 0, 1, Device::Cpu);
        apart.extend(draw(&network, &params, &diffusion, &request, 1, count, Device::Cpu));
        let most = together.iter().zip(&apart).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(most <= 1, "{most}");
        assert_ne!(together[..64], together[64..128]);
    }

    #[test]
    fn a_grid_has_a_class_a_row() {
        assert_eq!(grid_labels(Some(3), 2, 2), (Some(vec![0, 0, 1, 1]), 4));
        assert_eq!(grid_labels(None, 3, 2), (None, 9));
    }
}
