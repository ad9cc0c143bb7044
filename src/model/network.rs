//! One type for all kinds of networks.

use admiral_plan::LayerMemory;
use tch::Tensor;

use super::activations::ExecutionMode;
use super::encoder::{Encoder, EncoderSpec};
use super::params::{ParamSpecs, Params};
use super::unet::{UNet, UNetSpec};
use crate::ops::Kernels;

/// The inputs of a network.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Images, `[batch, channels, height, width]`, float32.
    pub x: &'a Tensor,
    /// Timesteps in the scale of the diffusion process, `[batch]`.
    pub timesteps: &'a Tensor,
    /// Classes for class-conditional UNets: labels, `[batch]`, int64, or in their place class embeddings, `[batch, 4 *
    /// model_channels]`, float32, such as mixtures of two rows of [`Network::class_embedding`]. Networks without a class
    /// embedding ignore them.
    pub labels: Option<&'a Tensor>,
    /// Small images for super-resolution, `[batch, channels, small height, small width]`, float32.
    pub low_res: Option<&'a Tensor>,
}

/// The spec of a network.
#[derive(Debug, Clone, PartialEq)]
pub enum NetworkSpec {
    /// A UNet.
    UNet(UNetSpec),
    /// A UNet with a second image as input: a small image, upsampled to the large size and concatenated to the input.
    SuperRes(UNetSpec),
    /// A classifier.
    Encoder(EncoderSpec),
}

/// The structure of a network. It does not hold the values of its parameters.
#[derive(Debug)]
pub enum Network {
    /// A UNet.
    UNet(UNet),
    /// A super-resolution UNet.
    SuperRes(UNet),
    /// A classifier.
    Encoder(Encoder),
}

impl Network {
    /// Builds the structure and lists its parameters. No memory is allocated for values.
    #[must_use]
    pub fn build(spec: &NetworkSpec) -> (Self, ParamSpecs) {
        match spec {
            NetworkSpec::UNet(spec) => {
                let (unet, specs) = UNet::build(spec);
                (Self::UNet(unet), specs)
            }
            NetworkSpec::SuperRes(spec) => {
                let (unet, specs) = UNet::build(spec);
                (Self::SuperRes(unet), specs)
            }
            NetworkSpec::Encoder(spec) => {
                let (encoder, specs) = Encoder::build(spec);
                (Self::Encoder(encoder), specs)
            }
        }
    }

    /// Computes the network's output, float32: `[batch, out_channels, height, width]`, or logits `[batch, classes]`.
    /// Dropout is enabled if `dropout_seed` is `Some`. Its masks depend only on the seed.
    ///
    /// # Panics
    /// If a class-conditional network has no classes, a super-resolution network has no small image, or a tensor has
    /// the wrong shape.
    pub fn forward(
        &self,
        kernels: &Kernels,
        params: &Params,
        inputs: &Inputs<'_>,
        dropout_seed: Option<u64>,
    ) -> Tensor {
        let Inputs { x, timesteps, labels, low_res } = *inputs;
        match self {
            Self::UNet(unet) => unet.forward(kernels, params, x, timesteps, labels, dropout_seed),
            Self::Encoder(encoder) => encoder.forward(kernels, params, x, timesteps, dropout_seed),
            Self::SuperRes(unet) => {
                let low_res = low_res.expect("a super-resolution network is given the small image");
                let size = x.size();
                let upsampled = low_res.upsample_bilinear2d([size[2], size[3]], false, None, None);
                unet.forward(kernels, params, &Tensor::cat(&[x, &upsampled], 1), timesteps, labels, dropout_seed)
            }
        }
    }

    /// Returns the class embeddings of `labels`, `[batch]`, int64: `[batch, 4 * model_channels]`, float32. `None` for an
    /// unconditional UNet and for a classifier.
    #[must_use]
    pub fn class_embedding(&self, params: &Params, labels: &Tensor) -> Option<Tensor> {
        match self {
            Self::UNet(unet) | Self::SuperRes(unet) => unet.class_embedding(params, labels),
            Self::Encoder(_) => None,
        }
    }

    /// FLOPs of the forward pass for one image. Counts convolutions and matrix products, with 2 FLOPs for a
    /// multiply-add.
    #[must_use]
    pub fn forward_flops(&self) -> u64 {
        match self {
            Self::UNet(unet) | Self::SuperRes(unet) => unet.forward_flops(),
            Self::Encoder(encoder) => encoder.forward_flops(),
        }
    }

    /// Returns the memory of each layer in bytes that the forward pass saves for backward for one image.
    #[must_use]
    pub fn memory(&self, mode: ExecutionMode) -> Vec<LayerMemory> {
        match self {
            Self::UNet(unet) | Self::SuperRes(unet) => unet.memory(mode),
            Self::Encoder(encoder) => encoder.memory(mode),
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::model::{ModelConfig, Task};

    /// A network with one level on 8x8 images of one channel, with random values in all parameters.
    fn tiny(task: Task, num_classes: Option<i64>) -> (Network, Params) {
        tiny_with(task, num_classes, false)
    }

    fn tiny_with(task: Task, num_classes: Option<i64>, use_checkpoint: bool) -> (Network, Params) {
        let config = ModelConfig {
            image_size: 8,
            small_size: (task == Task::SuperResolution).then_some(4),
            image_channels: 1,
            num_classes,
            num_channels: 32,
            num_res_blocks: 1,
            channel_mult: Some(vec![1.0]),
            attention_resolutions: vec![8],
            num_head_channels: Some(16),
            dropout: 0.5,
            use_checkpoint,
            ..ModelConfig::default()
        };
        let spec = config.spec(task, true).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
        let (network, specs) = Network::build(&spec);
        let options = (Kind::Float, Device::Cpu);
        (network, Params::new(specs.iter().map(|spec| Tensor::randn(spec.shape.as_slice(), options) * 0.1).collect()))
    }

    fn zeros(shape: &[i64]) -> Tensor {
        Tensor::zeros(shape, (Kind::Float, Device::Cpu))
    }

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn dropout_depends_on_its_seed_only() {
        let (network, params) = tiny(Task::Diffusion, None);
        let (x, timesteps) = (zeros(&[2, 1, 8, 8]) + 0.5, zeros(&[2]));
        let inputs = Inputs { x: &x, timesteps: &timesteps, labels: None, low_res: None };
        let run = |dropout_seed| network.forward(&Kernels::cpu(), &params, &inputs, dropout_seed);
        assert_eq!(run(None).size(), [2, 2, 8, 8]);
        assert!(difference(&run(None), &run(None)) == 0.0);
        assert!(difference(&run(None), &run(Some(1))) > 0.0);
        assert!(difference(&run(Some(1)), &run(Some(1))) == 0.0);
        assert!(difference(&run(Some(1)), &run(Some(2))) > 0.0);
    }

    #[test]
    fn recomputation_in_backward_does_not_change_results() {
        for task in [Task::Diffusion, Task::Classifier] {
            let classes = (task == Task::Classifier).then_some(3);
            let (plain, params) = tiny(task, classes);
            let (recomputed, _) = tiny_with(task, classes, true);
            let x = Tensor::randn([2, 1, 8, 8], (Kind::Float, Device::Cpu));
            let timesteps = zeros(&[2]) + 3.0;
            let inputs = Inputs { x: &x, timesteps: &timesteps, labels: None, low_res: None };
            let run = |network: &Network| {
                let leaf = |value: &Tensor| value.detach().set_requires_grad(true);
                let params = Params::new(params.tensors().iter().map(leaf).collect());
                let y = network.forward(&Kernels::cpu(), &params, &inputs, Some(7));
                y.square().sum(Kind::Float).backward();
                let gradients = params.tensors().iter().map(Tensor::grad);
                std::iter::once(y.detach()).chain(gradients).collect::<Vec<_>>()
            };
            let (plain, recomputed) = (run(&plain), run(&recomputed));
            let largest = plain.iter().map(|x| x.abs().max().double_value(&[])).fold(0.0, f64::max);
            for (index, (plain, recomputed)) in plain.iter().zip(&recomputed).enumerate() {
                // The output is equal bit for bit. Gradients of the embedding may be summed in another order.
                let tolerance = if index == 0 { 0.0 } else { 1e-6 * largest };
                let error = difference(plain, recomputed);
                assert!(error <= tolerance, "{task:?}, tensor {index}: {error}, allowed {tolerance}");
            }
        }
    }

    #[test]
    fn classes_and_small_images_change_the_output() {
        let (network, params) = tiny(Task::SuperResolution, Some(3));
        let (x, timesteps) = (zeros(&[1, 1, 8, 8]), zeros(&[1]));
        let run = |class: i64, small: f64| {
            let (labels, low_res) = (Tensor::from_slice(&[class]), zeros(&[1, 1, 4, 4]) + small);
            let inputs = Inputs { x: &x, timesteps: &timesteps, labels: Some(&labels), low_res: Some(&low_res) };
            network.forward(&Kernels::cpu(), &params, &inputs, None)
        };
        assert!(difference(&run(0, 0.0), &run(1, 0.0)) > 0.0);
        assert!(difference(&run(0, 0.0), &run(0, 1.0)) > 0.0);
    }

    #[test]
    fn class_embeddings_take_the_place_of_labels() {
        let (network, params) = tiny(Task::Diffusion, Some(3));
        let (x, timesteps, labels) = (zeros(&[2, 1, 8, 8]), zeros(&[2]), Tensor::from_slice(&[2i64, 0]));
        let run = |classes: &Tensor| {
            let inputs = Inputs { x: &x, timesteps: &timesteps, labels: Some(classes), low_res: None };
            network.forward(&Kernels::cpu(), &params, &inputs, None)
        };
        let Some(rows) = network.class_embedding(&params, &labels) else { panic!("the network has classes") };
        assert_eq!(rows.size(), [2, 128]);
        assert!(run(&rows).equal(&run(&labels)));
        assert!(difference(&run(&(rows * 0.5)), &run(&labels)) > 0.0);
        let (unconditional, params) = tiny(Task::Diffusion, None);
        assert!(unconditional.class_embedding(&params, &labels).is_none());
    }

    #[test]
    #[should_panic(expected = "is given the class of each image")]
    fn a_class_conditional_network_panics_without_classes() {
        let (network, params) = tiny(Task::Diffusion, Some(3));
        let (x, timesteps) = (zeros(&[1, 1, 8, 8]), zeros(&[1]));
        let inputs = Inputs { x: &x, timesteps: &timesteps, labels: None, low_res: None };
        let _ = network.forward(&Kernels::cpu(), &params, &inputs, None);
    }

    #[test]
    #[should_panic(expected = "is given the small image")]
    fn a_super_resolution_network_panics_without_the_small_image() {
        let (network, params) = tiny(Task::SuperResolution, None);
        let (x, timesteps) = (zeros(&[1, 1, 8, 8]), zeros(&[1]));
        let inputs = Inputs { x: &x, timesteps: &timesteps, labels: None, low_res: None };
        let _ = network.forward(&Kernels::cpu(), &params, &inputs, None);
    }
}
