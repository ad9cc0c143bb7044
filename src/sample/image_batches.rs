//! Sampling of images in batches. All noise of image i comes from one random sequence that depends on (seed, i) only,
//! so the image does not depend on the batch size or the number of ranks.

use std::ops::Range;

use admiral_comm::{Collective, CollectiveError};
use admiral_random::{Philox, Stream};
use tch::{Device, Kind, Tensor};

use super::request::SampleRequest;
use crate::diffusion::{GuidedModel, SolverPlan, Trajectory, to_bytes};
use crate::model::{Inputs, Network, Params};
use crate::ops::Kernels;

/// A network with the values of its parameters, and the solver.
#[derive(Debug, Clone, Copy)]
pub struct SamplingModel<'a> {
    /// The network.
    pub network: &'a Network,
    /// The values of the network's parameters, on the device of `kernels`.
    pub params: &'a Params,
    /// The kernels of the device on which images are sampled.
    pub kernels: &'a Kernels,
    /// The solver of the reverse process.
    pub solver: &'a SolverPlan,
}

/// Images that were sampled together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageBatch {
    /// The index of the first image.
    pub first: u64,
    /// The pixels, `[batch, height, width, channels]`.
    pub pixels: Vec<u8>,
}

/// Samples the images of a request, one batch for each call of `next`. Only one batch is in memory.
#[derive(Debug)]
pub struct ImageBatches<'a> {
    model: SamplingModel<'a>,
    request: &'a SampleRequest,
    rest: Range<u64>,
}

impl<'a> ImageBatches<'a> {
    /// Creates an iterator over the images with indices `images` of a request.
    #[must_use]
    pub fn new(model: SamplingModel<'a>, request: &'a SampleRequest, images: Range<u64>) -> Self {
        Self { model, request, rest: images }
    }

    /// Creates an iterator over the images of one rank: a contiguous share of the request.
    #[must_use]
    pub fn of_rank(model: SamplingModel<'a>, request: &'a SampleRequest, rank: u64, world_size: u64) -> Self {
        Self::new(model, request, share(request.count, rank, world_size))
    }

    /// Samples all images of a request, with a share on each rank. Every rank must call this function. Rank 0 passes
    /// each batch of each rank to `consume` as soon as it is sampled, so rank 0 holds at most one batch of each rank.
    ///
    /// # Errors
    /// If communication with the other ranks fails.
    pub fn gather(
        model: SamplingModel<'a>,
        request: &'a SampleRequest,
        collective: &dyn Collective,
        mut consume: impl FnMut(ImageBatch),
    ) -> Result<(), CollectiveError> {
        let (rank, world_size) = (collective.rank() as u64, collective.world_size() as u64);
        let mut own = Self::of_rank(model, request, rank, world_size);
        let shares: Vec<Range<u64>> = (0..world_size).map(|rank| share(request.count, rank, world_size)).collect();
        let num_batches = |share: &Range<u64>| (share.end - share.start).div_ceil(request.batch_size);
        // Ranks without remaining images still participate in the collective.
        for round in 0..shares.iter().map(num_batches).max().unwrap_or(0) {
            let pixels = own.next().map(|batch| batch.pixels).unwrap_or_default();
            let Some(all) = collective.gather(0, &pixels)? else { continue };
            for (share, pixels) in shares.iter().zip(all) {
                if !pixels.is_empty() {
                    consume(ImageBatch { first: share.start + round * request.batch_size, pixels });
                }
            }
        }
        Ok(())
    }

    /// Samples one batch and returns its pixels, `[batch, height, width, channels]`.
    fn sample_batch(&self, images: Range<u64>) -> Vec<u8> {
        let SamplingModel { network, params, kernels, solver } = self.model;
        let (request, device) = (self.request, kernels.device());
        let _no_grad = tch::no_grad_guard();
        let count = (images.end - images.start) as i64;
        let shape = [count, request.channels, request.size, request.size];
        let length = (request.channels * request.size * request.size) as usize;
        let mut streams: Vec<Philox> =
            images.clone().map(|index| Philox::new(request.seed, Stream::Sampling, index)).collect();
        let mut noise = |_step: usize| {
            let mut values = vec![0.0f32; length * streams.len()];
            for (stream, values) in streams.iter_mut().zip(values.chunks_exact_mut(length)) {
                stream.fill_normal(values);
            }
            Tensor::from_slice(&values).view(shape).to_device(device)
        };
        let part = images.start as usize..images.end as usize;
        let labels = request.labels.as_ref().map(|labels| Tensor::from_slice(&labels[part]).to_device(device));
        let low_res =
            request.low_res.as_ref().map(|small| small.narrow(0, images.start as i64, count).to_device(device));
        let predict = |x: &Tensor, timesteps: &Tensor| {
            let inputs = Inputs { x, timesteps, labels: labels.as_ref(), low_res: low_res.as_ref() };
            network.forward(kernels, params, &inputs, None)
        };
        let x_last = noise(0);
        let samples = Trajectory::new(solver.start(), GuidedModel::unguided(&predict), &x_last, &mut noise).finish();
        let bytes = to_bytes(&samples).to_device(Device::Cpu).to_kind(Kind::Uint8);
        let mut pixels = vec![0u8; bytes.numel()];
        bytes.copy_data(&mut pixels, bytes.numel());
        pixels
    }
}

impl Iterator for ImageBatches<'_> {
    type Item = ImageBatch;

    fn next(&mut self) -> Option<ImageBatch> {
        if self.rest.is_empty() {
            return None;
        }
        let first = self.rest.start;
        let end = self.rest.end.min(first + self.request.batch_size);
        self.rest.start = end;
        Some(ImageBatch { first, pixels: self.sample_batch(first..end) })
    }
}

/// Returns the indices of the images that a rank samples.
fn share(count: u64, rank: u64, world_size: u64) -> Range<u64> {
    count * rank / world_size..count * (rank + 1) / world_size
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::diffusion::{DiffusionConfig, Sampler, SolverOptions};
    use crate::model::{ModelConfig, Task, initialize};
    use crate::sample::grid_labels;

    #[test]
    fn batch_size_does_not_change_samples() {
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
        let (network, specs) = Network::build(&config.spec(Task::Diffusion, true).unwrap());
        let tensors = specs.iter().enumerate().map(|(index, spec)| {
            let mut values = vec![0.0; spec.num_elements()];
            initialize(spec, index, 1, &mut values);
            // Zeros are replaced, so that the output depends on the input.
            values.iter_mut().filter(|value| **value == 0.0).for_each(|value| *value = 0.02);
            Tensor::from_slice(&values).view(spec.shape.as_slice())
        });
        let params = Params::new(tensors.collect());
        let options = SolverOptions { timestep_respacing: "3".into(), ..SolverOptions::default() };
        let solver = SolverPlan::new(Sampler::DDPM, &options, &DiffusionConfig::default()).unwrap();
        let (labels, count) = grid_labels(Some(3), 2, 10);
        let mut request = SampleRequest { size: 8, channels: 1, seed: 4, labels, count, low_res: None, batch_size: 6 };
        let kernels = Kernels::cpu();
        let model = SamplingModel { network: &network, params: &params, kernels: &kernels, solver: &solver };
        let sample = |request: &SampleRequest, images: Range<u64>| -> Vec<u8> {
            ImageBatches::new(model, request, images).flat_map(|batch| batch.pixels).collect()
        };
        let together = sample(&request, 0..count);
        assert_eq!(together.len(), 6 * 64);
        request.batch_size = 4;
        let mut apart = sample(&request, 0..1);
        apart.extend(sample(&request, 1..count));
        let largest = together.iter().zip(&apart).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(largest <= 1, "{largest}");
        assert_ne!(together[..64], together[64..128]);
    }

    #[test]
    fn shares_of_the_ranks_cover_all_images() {
        for world_size in 1..6 {
            let shares: Vec<Range<u64>> = (0..world_size).map(|rank| share(11, rank, world_size)).collect();
            assert!(shares.into_iter().flatten().eq(0..11), "{world_size} ranks");
        }
    }
}
