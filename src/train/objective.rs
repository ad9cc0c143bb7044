//! The objective of each task: the diffusion loss, the classifier's cross entropy, the upsampler's diffusion loss.

use tch::{Kind, Tensor};

use crate::diffusion::GaussianDiffusion;
use crate::model::{Inputs, Network, Params};
use crate::ops::Kernels;

/// The samples of one pass through the network. Tensors are on the network's device.
#[derive(Debug)]
pub struct Microbatch {
    /// The global index of each sample.
    pub indices: Vec<u64>,
    /// Images in [-1, 1], `[batch, channels, height, width]`, float32.
    pub images: Tensor,
    /// The noise that is added, in the shape of the images.
    pub noise: Tensor,
    /// The diffusion timestep of each sample.
    pub timesteps: Vec<i64>,
    /// The importance weights of the timesteps, `[batch]`, float32.
    pub weights: Tensor,
    /// The classes, `[batch]`, int64, if the model has classes.
    pub labels: Option<Tensor>,
}

/// The value of an objective for each sample.
#[derive(Debug)]
pub struct Terms {
    /// The weighted loss that is minimised, `[batch]`, with its graph.
    pub loss: Tensor,
    /// The logged terms by name, each `[batch]`, without a graph. Losses are weighted. `loss` is one of them.
    pub logged: Vec<(&'static str, Tensor)>,
}

/// The objective that a run minimises.
#[derive(Debug)]
pub enum Objective {
    /// A diffusion model: the losses of the diffusion process (the paper's appendix B).
    Diffusion(GaussianDiffusion),
    /// A classifier of noised or clean images: cross entropy (the paper's section 4.3).
    Classifier {
        /// The process that noises the images.
        diffusion: GaussianDiffusion,
        /// Whether images are noised. A classifier of clean images gets timestep 0.
        noised: bool,
    },
    /// An upsampler: the diffusion losses, conditioned on the image at a lower resolution (the paper's appendix I).
    SuperResolution {
        /// The process of the large image.
        diffusion: GaussianDiffusion,
        /// The height and width of the small image, which is the large one downsampled by area interpolation.
        small_size: i64,
    },
}

impl Objective {
    /// Returns the process that noises images.
    #[must_use]
    pub fn diffusion(&self) -> &GaussianDiffusion {
        match self {
            Self::Diffusion(diffusion)
            | Self::Classifier { diffusion, .. }
            | Self::SuperResolution { diffusion, .. } => diffusion,
        }
    }

    /// Runs the network forward and computes each sample's loss. With a seed, dropout is on, and its masks only depend
    /// on the seed.
    ///
    /// # Panics
    /// When a classifier's batch has no labels.
    #[must_use]
    pub fn terms(
        &self,
        kernels: &Kernels,
        network: &Network,
        params: &Params,
        batch: &Microbatch,
        dropout_seed: Option<u64>,
    ) -> Terms {
        match self {
            Self::Diffusion(diffusion) => {
                diffusion_terms(diffusion, kernels, network, params, batch, None, dropout_seed)
            }
            Self::SuperResolution { diffusion, small_size } => {
                let low_res = batch.images.adaptive_avg_pool2d([*small_size, *small_size]);
                diffusion_terms(diffusion, kernels, network, params, batch, Some(&low_res), dropout_seed)
            }
            Self::Classifier { diffusion, noised } => {
                classifier_terms(diffusion, *noised, kernels, network, params, batch, dropout_seed)
            }
        }
    }
}

fn diffusion_terms(
    diffusion: &GaussianDiffusion,
    kernels: &Kernels,
    network: &Network,
    params: &Params,
    batch: &Microbatch,
    low_res: Option<&Tensor>,
    dropout_seed: Option<u64>,
) -> Terms {
    let model = |x: &Tensor, timesteps: &Tensor| {
        network.forward(kernels, params, &Inputs { x, timesteps, labels: batch.labels.as_ref(), low_res }, dropout_seed)
    };
    let losses = diffusion.training_losses(&model, &batch.images, &batch.timesteps, &batch.noise);
    let weigh = |term: Tensor| &batch.weights * term;
    let loss = weigh(losses.loss);
    let mut logged = vec![("loss", loss.detach())];
    logged.extend(losses.mse.map(|mse| ("mse", weigh(mse.detach()))));
    logged.extend(losses.vb.map(|vb| ("vb", weigh(vb.detach()))));
    Terms { loss, logged }
}

fn classifier_terms(
    diffusion: &GaussianDiffusion,
    noised: bool,
    kernels: &Kernels,
    network: &Network,
    params: &Params,
    batch: &Microbatch,
    dropout_seed: Option<u64>,
) -> Terms {
    let (x, timesteps) = if noised {
        let x = diffusion.q_sample(&batch.images, &batch.timesteps, &batch.noise);
        (x, diffusion.model_timesteps(&batch.timesteps, batch.images.device()))
    } else {
        (batch.images.shallow_clone(), batch.weights.zeros_like())
    };
    let labels = batch.labels.as_ref().expect("a classifier's run is refused if the data have no classes");
    let inputs = Inputs { x: &x, timesteps: &timesteps, labels: None, low_res: None };
    let logits = network.forward(kernels, params, &inputs, dropout_seed);
    let loss = logits.cross_entropy_loss::<Tensor>(labels, None, tch::Reduction::None, -100, 0.0);
    let loss = &batch.weights * loss;
    let logged =
        vec![("loss", loss.detach()), ("acc@1", accuracy(&logits, labels, 1)), ("acc@5", accuracy(&logits, labels, 5))];
    Terms { loss, logged }
}

/// Returns `[batch]`: for each row of logits `[batch, classes]`, 1 if the label is among the `k` largest, else 0.
fn accuracy(logits: &Tensor, labels: &Tensor, k: i64) -> Tensor {
    let logits = logits.detach();
    let k = k.min(logits.size()[1]);
    let (_, best) = logits.topk(k, 1, true, true);
    best.eq_tensor(&labels.unsqueeze(1)).any_dim(1, false).to_kind(Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_counts_labels_among_the_k_largest() {
        let logits = Tensor::from_slice(&[0.1, 0.9, 0.5, 0.7, 0.2, 0.1]).reshape([2, 3]);
        let labels = Tensor::from_slice(&[2i64, 0]);
        let at = |k| Vec::<f32>::try_from(accuracy(&logits, &labels, k)).expect("a vector");
        assert_eq!(at(1), [0.0, 1.0]);
        assert_eq!(at(2), [1.0, 1.0]);
        assert_eq!(at(5), [1.0, 1.0]);
    }
}
