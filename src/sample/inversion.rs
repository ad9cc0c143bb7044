//! DDIM from images back to noise (the paper's appendix F).

use tch::Tensor;

use crate::diffusion::{Denoising, GaussianDiffusion};
use crate::model::Inputs;
use crate::ops::Kernels;

use super::stage::Weights;

/// Encodes images to the noise from which DDIM draws them again.
#[derive(Debug, Clone, Copy)]
pub struct Inversion<'a> {
    /// The network, on the device of `kernels`.
    pub model: Weights<'a>,
    /// The kernels of the device.
    pub kernels: &'a Kernels,
    /// The process with the timesteps that DDIM visits.
    pub diffusion: &'a GaussianDiffusion,
    /// Whether the last timestep is visited too. Its step ends one noise level beyond that at which sampling starts.
    pub all_steps: bool,
}

impl Inversion<'_> {
    /// Returns the latents of `images`, `[batch, channels, height, width]`, in [-1, 1], on the device. Predicted images are
    /// not clamped. `labels` has the class of each image, `[batch]`, int64, for class-conditional networks.
    pub fn encode(&self, images: &Tensor, labels: Option<&Tensor>) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let device = self.kernels.device();
        let (images, labels) = (images.to_device(device), labels.map(|labels| labels.to_device(device)));
        let model = |x: &Tensor, timesteps: &Tensor| {
            let inputs = Inputs { x, timesteps, labels: labels.as_ref(), low_res: None };
            self.model.network.forward(self.kernels, self.model.params, &inputs, None)
        };
        let latents = self.diffusion.ddim_encode(&model, &images, Denoising::NONE);
        if !self.all_steps {
            return latents;
        }
        let last = vec![self.diffusion.num_timesteps() as i64 - 1; images.size()[0] as usize];
        self.diffusion.ddim_reverse_sample(&model, &latents, &last, Denoising::NONE).sample
    }
}
