//! Sampling of images in batches. A batch is determined by the index of its first image, and all noise of image i comes
//! from random sequences of (seed, i), so that images do not depend on the number of ranks or on where a job was
//! interrupted.

use std::cell::Cell;
use std::ops::Range;

use admiral_comm::Collective;
use admiral_samples::Latents;
use tch::Tensor;

use super::batches::gather_batches;
use super::error::Error;
use super::given_images::{GivenImages, wrapped};
use super::labels::Labels;
use super::stage::{BatchInputs, Guidance, Stage, images_of, pixels_of};
use super::watch::{Part, Unwatched, Watch, watched};

/// The models that images pass through, first to last: one model, or a base model and its upsampler.
#[derive(Debug, Clone, Copy)]
pub struct Stages<'a> {
    /// The model that draws the images, or that enlarges the small images of the request.
    pub first: Stage<'a>,
    /// The upsampler of a stack, which enlarges the images of the first model.
    pub upsampler: Option<Stage<'a>>,
}

impl<'a> Stages<'a> {
    /// Returns the model that the images come from.
    #[must_use]
    pub fn last(&self) -> Stage<'a> {
        self.upsampler.unwrap_or(self.first)
    }

    /// Returns the shape of an image, `[height, width, channels]`.
    #[must_use]
    pub fn image_shape(&self) -> [usize; 3] {
        let last = self.last();
        [last.size as usize, last.size as usize, last.channels as usize]
    }
}

/// A request for images.
#[derive(Debug)]
pub struct SampleRequest {
    /// The seed of all noise.
    pub seed: u64,
    /// The rule that gives each image its class.
    pub labels: Labels,
    /// The number of images.
    pub count: u64,
    /// What images start from, in place of noise: image i from latent i, and again from the first after the last.
    pub latents: Option<Latents>,
    /// The small images for super-resolution.
    pub low_res: Option<GivenImages>,
    /// The number of images sampled together.
    pub batch_size: u64,
}

/// Images that were sampled together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageBatch {
    /// The index of the first image.
    pub first: u64,
    /// The pixels, `[batch, height, width, channels]`.
    pub pixels: Vec<u8>,
    /// The class of each image; empty if images have no class.
    pub labels: Vec<i64>,
}

/// The correction of a step by a higher order, relative to the image, above which it probably does harm.
const LARGE_CORRECTION: f64 = 0.5;

/// Samples the images of a request, one batch for each call of `next`. Only one batch is in memory.
///
/// Kernels may round differently for a batch of another size or at another place in the batch. Batch b therefore always
/// consists of images b·`batch_size` and those that follow, also where the request ends within it: the images beyond are
/// computed and discarded.
#[derive(Debug)]
pub struct ImageBatches<'a, 'r> {
    stages: Stages<'a>,
    request: &'r mut SampleRequest,
    rest: Range<u64>,
    watch: &'a dyn Watch,
}

/// Samples all images of a request, with a share of the batches on each rank. Every rank must call this function. Rank 0
/// passes each batch of each rank to `consume` as soon as it is sampled, so rank 0 holds at most one batch of each rank.
///
/// # Errors
/// If an image cannot be read or communication with the other ranks fails.
pub fn gather_images(
    stages: Stages<'_>,
    request: &mut SampleRequest,
    collective: &dyn Collective,
    mut consume: impl FnMut(ImageBatch),
) -> Result<(), Error> {
    let (labels, count, batch_size) = (request.labels.clone(), request.count, request.batch_size);
    let sample = |images: Range<u64>| {
        // A rank without a batch still takes part.
        let batch = match images.is_empty() {
            true => None,
            false => ImageBatches::new(stages, request, images).next().transpose()?,
        };
        Ok::<_, Error>(batch.map(|batch| batch.pixels).unwrap_or_default())
    };
    gather_batches(count, batch_size, collective, sample, |images, pixels| {
        let labels = images.clone().filter_map(|image| labels.of(image)).collect();
        consume(ImageBatch { first: images.start, pixels, labels });
    })
}

impl<'a, 'r> ImageBatches<'a, 'r> {
    /// Creates an iterator over the images with indices `images` of a request.
    ///
    /// # Panics
    /// If `images` does not start at the start of a batch.
    #[must_use]
    pub fn new(stages: Stages<'a>, request: &'r mut SampleRequest, images: Range<u64>) -> Self {
        assert!(images.start.is_multiple_of(request.batch_size), "{images:?} does not start at the start of a batch");
        Self { stages, request, rest: images, watch: &Unwatched }
    }

    /// Lets `watch` see each part.
    #[must_use]
    pub fn watched(self, watch: &'a dyn Watch) -> Self {
        Self { watch, ..self }
    }

    /// Samples the next batch.
    fn sample_next(&mut self) -> Result<Option<ImageBatch>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let first = self.rest.start;
        let end = self.rest.end.min(first + self.request.batch_size);
        self.rest.start = end;
        let indices: Vec<u64> = (first..first + self.request.batch_size).collect();
        let labels: Vec<i64> = indices.iter().filter_map(|&image| self.request.labels.of(image)).collect();
        let low_res = match &mut self.request.low_res {
            Some(small) => Some(small.load(first..first + self.request.batch_size)?),
            None => None,
        };
        let x_last = match &self.request.latents {
            Some(latents) => Some(load_latents(latents, first..first + self.request.batch_size)?),
            None => None,
        };
        let mut pixels = self.sample_batch(&indices, &labels, x_last.as_ref(), low_res.as_ref());
        let kept = (end - first) as usize;
        pixels.truncate(kept * self.stages.image_shape().iter().product::<usize>());
        Ok(Some(ImageBatch { first, pixels, labels: labels.into_iter().take(kept).collect() }))
    }

    fn sample_batch(
        &self,
        images: &[u64],
        labels: &[i64],
        x_last: Option<&Tensor>,
        low_res: Option<&Tensor>,
    ) -> Vec<u8> {
        let Stages { first, upsampler } = self.stages;
        let labels = (!labels.is_empty()).then(|| Tensor::from_slice(labels));
        let draw = |stage: Stage<'_>, inputs: &BatchInputs<'_>| {
            let images = stage.sample_watched(inputs, self.watch);
            watched(self.watch, Part::Bytes, || pixels_of(&images))
        };
        // The first batch stands for all.
        let correction = Cell::new(0.0);
        let is_checked = images.first() == Some(&0) && !matches!(first.guidance, Guidance::None);
        let inputs = BatchInputs {
            seed: self.request.seed,
            images,
            labels: labels.as_ref(),
            x_last,
            low_res,
            largest_correction: is_checked.then_some(&correction),
        };
        let pixels = draw(first, &inputs);
        if correction.get() > LARGE_CORRECTION {
            tracing::warn!(
                "the guidance is strong for this sampler: the part of a step above first order is {:.1} times the image, \
                 and may make images worse than those of ddim; take more steps, a lower scale, or \
                 sampling.dynamic_thresholding",
                correction.get()
            );
        }
        match upsampler {
            None => pixels,
            Some(upsampler) => {
                let inputs = BatchInputs { largest_correction: None, ..inputs };
                // The upsampler gets what a file holds, so that both stages in one job equal two jobs.
                let small = images_of(&pixels, first.size, first.channels);
                draw(upsampler, &BatchInputs { x_last: None, low_res: Some(&small), ..inputs })
            }
        }
    }
}

/// Returns the latents of a batch, `[batch, channels, height, width]`.
fn load_latents(latents: &Latents, images: Range<u64>) -> Result<Tensor, Error> {
    let mut values = Vec::new();
    for piece in wrapped(images, latents.num()) {
        values.extend(latents.read(piece)?);
    }
    let [channels, height, width] = latents.shape().map(|side| side as i64);
    Ok(Tensor::from_slice(&values).view([-1, channels, height, width]))
}

impl Iterator for ImageBatches<'_, '_> {
    type Item = Result<ImageBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.sample_next().transpose()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use admiral_random::Stream;

    use super::*;
    use crate::diffusion::{DiffusionConfig, Sampler};
    use crate::model::{ModelConfig, Network, Params, Task, initialize};
    use crate::ops::Kernels;
    use crate::run_config::SamplingConfig;
    use crate::sample::{Guidance, Weights, grid_labels};

    fn request(batch_size: u64, count: u64) -> SampleRequest {
        let (labels, _) = grid_labels(Some(3), 2, 10);
        SampleRequest { seed: 4, labels, count, latents: None, low_res: None, batch_size }
    }

    #[test]
    fn batches_do_not_depend_on_where_the_request_ends() {
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
        let sampling =
            SamplingConfig { sampler: Sampler::DDPM, timestep_respacing: "3".into(), ..SamplingConfig::default() };
        let solver = sampling.solver_plan(&DiffusionConfig::default()).unwrap();
        let kernels = Kernels::cpu();
        let first = Stage {
            model: Weights { network: &network, params: &params },
            kernels: &kernels,
            solver: &solver,
            guidance: Guidance::None,
            noise_temperature: 1.0,
            stream: Stream::Sampling,
            size: 8,
            channels: 1,
        };
        let stages = Stages { first, upsampler: None };
        let sample = |mut request: SampleRequest, images: Range<u64>| -> Vec<u8> {
            ImageBatches::new(stages, &mut request, images).flat_map(|batch| batch.unwrap().pixels).collect()
        };
        let together = sample(request(4, 6), 0..6);
        assert_eq!(together.len(), 6 * 64);
        assert_ne!(together[..64], together[64..128]);
        // The second batch alone, and a request that ends within it.
        assert_eq!(sample(request(4, 6), 4..6), together[4 * 64..]);
        assert_eq!(sample(request(4, 5), 0..5), together[..5 * 64]);
        // Another batch size may round differently.
        let largest = together.iter().zip(&sample(request(6, 6), 0..6)).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(largest <= 1, "{largest}");
    }
}
