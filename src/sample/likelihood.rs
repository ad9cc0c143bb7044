//! Bits per dimension of images.

use admiral_random::Stream;
use tch::Tensor;

use crate::diffusion::{BitsPerDimension, GaussianDiffusion};
use crate::model::Inputs;
use crate::ops::Kernels;

use super::noise::noise_of;
use super::stage::Weights;

/// Evaluates the variational bound of images (the sum of the terms of the paper's equation 18).
#[derive(Debug, Clone, Copy)]
pub struct Likelihood<'a> {
    /// The network, on the device of `kernels`.
    pub model: Weights<'a>,
    /// The kernels of the device.
    pub kernels: &'a Kernels,
    /// The process whose bound is evaluated.
    pub diffusion: &'a GaussianDiffusion,
    /// Whether predicted images are clamped to [-1, 1].
    pub clip_denoised: bool,
    /// The seed of the noise.
    pub seed: u64,
}

impl Likelihood<'_> {
    /// Returns the bound of a batch and its terms. `x_start` are the images with these indices, `[batch, channels, height,
    /// width]`, in [-1, 1], and `labels` their classes, `[batch]`, int64.
    ///
    /// All noise of an image comes from one random sequence that depends on the seed and the image's index only.
    #[must_use]
    pub fn of(&self, images: &[u64], x_start: &Tensor, labels: Option<&Tensor>) -> BitsPerDimension {
        let device = self.kernels.device();
        let (x_start, labels) = (x_start.to_device(device), labels.map(|labels| labels.to_device(device)));
        let size = x_start.size();
        let mut noise = noise_of(self.seed, Stream::Likelihood, images, [size[1], size[2], size[3]], device);
        let model = |x: &Tensor, timesteps: &Tensor| {
            let inputs = Inputs { x, timesteps, labels: labels.as_ref(), low_res: None };
            self.model.network.forward(self.kernels, self.model.params, &inputs, None)
        };
        self.diffusion.bits_per_dimension(&model, &x_start, &mut |_timestep| noise(), self.clip_denoised)
    }
}
