//! One model that samples batches of images, with its solver and its guidance.

use std::cell::Cell;

use admiral_random::Stream;
use tch::{Device, Kind, Tensor};

use crate::diffusion::{
    GuidedModel, SolverPlan, Trajectory, autoguidance, classifier_free_guidance, classifier_gradient, to_bytes,
};
use crate::model::{Inputs, Network, Params};
use crate::ops::Kernels;

use super::noise::noise_of;
use super::watch::{Part, Unwatched, Watch, watched};

/// A network with the values of its parameters.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// The network.
    pub network: &'a Network,
    /// The values of the network's parameters.
    pub params: &'a Params,
}

/// What guides the sampling.
#[derive(Debug, Clone, Copy)]
pub enum Guidance<'a> {
    /// Nothing.
    None,
    /// A noised classifier (the paper's section 4).
    Classifier {
        /// The classifier.
        classifier: Weights<'a>,
        /// The factor of its gradient.
        scale: f64,
    },
    /// The same network without a class (Ho and Salimans 2022). Its weight is `scale`; 0 is no guidance.
    Free {
        /// The class that stands for no class.
        null_class: i64,
        /// The weight.
        scale: f64,
    },
    /// A worse version of the network (Karras et al. 2024). Its weight is `scale`; 1 is no guidance.
    Auto {
        /// The worse version.
        worse: Weights<'a>,
        /// The weight.
        scale: f64,
    },
}

/// One model that samples images.
#[derive(Debug, Clone, Copy)]
pub struct Stage<'a> {
    /// The network, on the device of `kernels`.
    pub model: Weights<'a>,
    /// The kernels of the device on which images are sampled.
    pub kernels: &'a Kernels,
    /// The solver of the reverse process.
    pub solver: &'a SolverPlan,
    /// What guides the sampling.
    pub guidance: Guidance<'a>,
    /// The temperature by which the noise of each step is multiplied (the paper's appendix G). 1 has no effect.
    pub noise_temperature: f64,
    /// The stream of all noise. Two stages of a stack have different streams.
    pub stream: Stream,
    /// Height and width of an image in pixels.
    pub size: i64,
    /// Channels of an image.
    pub channels: i64,
}

/// What the images of a batch start from.
#[derive(Debug)]
pub struct BatchInputs<'a> {
    /// The seed of all noise.
    pub seed: u64,
    /// The index of each image.
    pub images: &'a [u64],
    /// The class of each image, `[batch]`, int64, for class-conditional networks and for classifiers.
    pub labels: Option<&'a Tensor>,
    /// What the images start from in place of noise, `[batch, channels, height, width]`: latents of other images.
    pub x_last: Option<&'a Tensor>,
    /// The small images for super-resolution, `[batch, channels, small, small]`, in [-1, 1].
    pub low_res: Option<&'a Tensor>,
    /// Gets the largest [relative correction](crate::diffusion::Step::relative_correction) of a step, if it is wanted. It
    /// costs a norm of the images in each step.
    pub largest_correction: Option<&'a Cell<f64>>,
}

impl Stage<'_> {
    /// Samples a batch and returns the images, `[batch, channels, height, width]`, approximately in [-1, 1].
    ///
    /// All noise of an image comes from one random sequence that depends on the seed and the image's index only.
    pub fn sample(&self, inputs: &BatchInputs<'_>) -> Tensor {
        self.sample_watched(inputs, &Unwatched)
    }

    /// As [`sample`](Self::sample). `watch` sees each part.
    pub fn sample_watched(&self, inputs: &BatchInputs<'_>, watch: &dyn Watch) -> Tensor {
        let shape = [self.channels, self.size, self.size];
        let device = self.kernels.device();
        let mut draw = noise_of(inputs.seed, self.stream, inputs.images, shape, device);
        let mut noise = || watched(watch, Part::Noise, &mut draw);
        let x_last = inputs.x_last.map_or_else(&mut noise, |latents| latents.to_device(device));
        self.finish(&x_last, inputs, &mut |_step| noise(), watch)
    }

    /// As [`sample`](Self::sample), from the given standard normal `x_last` and noise of each step.
    pub fn sample_from(
        &self,
        x_last: &Tensor,
        inputs: &BatchInputs<'_>,
        noise: &mut dyn FnMut(usize) -> Tensor,
    ) -> Tensor {
        self.finish(x_last, inputs, noise, &Unwatched)
    }

    /// Takes all steps.
    fn finish(
        &self,
        x_last: &Tensor,
        inputs: &BatchInputs<'_>,
        noise: &mut dyn FnMut(usize) -> Tensor,
        watch: &dyn Watch,
    ) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let labels = inputs.labels.map(|labels| labels.to_device(self.kernels.device()));
        let low_res = inputs.low_res.map(|images| images.to_device(self.kernels.device()));
        let run = |weights: Weights<'_>, x: &Tensor, timesteps: &Tensor, labels: Option<&Tensor>| {
            let inputs = Inputs { x, timesteps, labels, low_res: low_res.as_ref() };
            weights.network.forward(self.kernels, weights.params, &inputs, None)
        };
        let main = |x: &Tensor, timesteps: &Tensor| {
            watched(watch, Part::Network, || run(self.model, x, timesteps, labels.as_ref()))
        };
        let finish = |model: GuidedModel<'_>, noise: &mut dyn FnMut(usize) -> Tensor| {
            let mut trajectory = Trajectory::new(self.solver.start(), model, x_last, noise)
                .with_noise_temperature(self.noise_temperature);
            if let Some(largest) = inputs.largest_correction {
                for step in &mut trajectory {
                    if step.correction.is_some() {
                        let correction = step.relative_correction().max().double_value(&[]);
                        largest.set(largest.get().max(correction));
                    }
                }
            }
            trajectory.finish()
        };
        match self.guidance {
            Guidance::None => finish(GuidedModel::unguided(&main), noise),
            Guidance::Classifier { classifier, scale } => {
                let logits = |x: &Tensor, timesteps: &Tensor| run(classifier, x, timesteps, None);
                let labels = labels.as_ref().expect("images that a classifier guides have classes");
                let gradient = |x: &Tensor, timesteps: &Tensor| {
                    watched(watch, Part::Guidance, || classifier_gradient(&logits, labels, scale, x, timesteps))
                };
                finish(GuidedModel { predict: &main, gradient: Some(&gradient) }, noise)
            }
            Guidance::Free { null_class, scale } => {
                let null = labels.as_ref().map(|labels| labels.full_like(null_class));
                let unconditional = |x: &Tensor, timesteps: &Tensor| {
                    watched(watch, Part::Guidance, || run(self.model, x, timesteps, null.as_ref()))
                };
                let predict = |x: &Tensor, timesteps: &Tensor| {
                    classifier_free_guidance(&main, &unconditional, scale, x, timesteps)
                };
                finish(GuidedModel::unguided(&predict), noise)
            }
            Guidance::Auto { worse, scale } => {
                let worse = |x: &Tensor, timesteps: &Tensor| {
                    watched(watch, Part::Guidance, || run(worse, x, timesteps, labels.as_ref()))
                };
                let predict = |x: &Tensor, timesteps: &Tensor| autoguidance(&main, &worse, scale, x, timesteps);
                finish(GuidedModel::unguided(&predict), noise)
            }
        }
    }
}

/// Converts images in [-1, 1], `[batch, channels, height, width]`, to their bytes on the host, row by row:
/// `[batch, height, width, channels]`.
#[must_use]
pub fn pixels_of(images: &Tensor) -> Vec<u8> {
    let bytes = to_bytes(images).to_device(Device::Cpu).to_kind(Kind::Uint8);
    let mut pixels = vec![0u8; bytes.numel()];
    bytes.copy_data(&mut pixels, bytes.numel());
    pixels
}

/// Converts bytes `[batch, height, width, channels]` to images in [-1, 1], `[batch, channels, height, width]`: bytes /
/// 127.5 - 1.
///
/// # Panics
/// If the number of bytes does not fit the sizes.
pub fn images_of(pixels: &[u8], size: i64, channels: i64) -> Tensor {
    let batch = pixels.len() as i64 / (size * size * channels).max(1);
    let bytes = Tensor::from_slice(pixels).view([batch, size, size, channels]);
    (bytes.permute([0, 3, 1, 2]).to_kind(Kind::Float) / 127.5 - 1.0).contiguous()
}
